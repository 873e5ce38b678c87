/* file.h: reading by position, so that nothing depends on a file's cursor. */
#include "files/file.h"

#include "common/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

imf_status imf__file_open(struct imf__file *f, const char *path, struct imf_error *err)
{
    size_t n = strlen(path), keep = sizeof(f->label) - 4;
    f->in_memory = false;
    if (n <= keep)
        snprintf(f->label, sizeof(f->label), "%s", path);
    else
        snprintf(f->label, sizeof(f->label), "...%s", path + n - keep);
    /* O_NONBLOCK: opening a FIFO must not hang. */
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (f->fd < 0)
        return imf__fail(err, IMF_EIO, "%s: %s", f->label, strerror(errno));
    struct stat st;
    if (fstat(f->fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        imf__file_close(f);
        return imf__fail(err, IMF_EIO, "%s: not a regular file", f->label);
    }
    f->size = (uint64_t)st.st_size;
    return IMF_OK;
}

void imf__file_close(struct imf__file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

imf_status imf__file_read(const struct imf__file *f, void *dst, size_t size, uint64_t offset,
                          struct imf_error *err)
{
    uint8_t *p = dst;
    while (size) {
        if (offset > INT64_MAX - size)
            return imf__fail(err, IMF_EFORMAT, "%s: offset %llu is past the end", f->label,
                             (unsigned long long)offset);
        ssize_t n = pread(f->fd, p, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return imf__fail(err, IMF_EIO, "%s: %s", f->label, strerror(errno));
        if (n == 0)
            return imf__fail(err, IMF_EFORMAT, "%s: truncated: ends at byte %llu, %zu more needed",
                             f->label, (unsigned long long)offset, size);
        p += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return IMF_OK;
}

imf_status imf__file_load(char **text, size_t *size, const char *path, size_t max,
                          struct imf_error *err)
{
    struct imf__file f;
    IMF_TRY(imf__file_open(&f, path, err));
    imf_status status = IMF_OK;
    char *bytes = NULL;
    if (f.size > max)
        status = imf__fail(err, IMF_EINVAL, "%s: %llu bytes; at most %zu are read", f.label,
                           (unsigned long long)f.size, max);
    else if (!(bytes = malloc((size_t)f.size + 1)))
        status = imf__fail(err, IMF_ENOMEM, "%s: out of memory", f.label);
    else
        status = imf__file_read(&f, bytes, (size_t)f.size, 0, err);
    if (status == IMF_OK) {
        bytes[f.size] = '\0';
        *text = bytes;
        *size = (size_t)f.size;
    } else {
        free(bytes);
    }
    imf__file_close(&f);
    return status;
}

struct imf__quoted imf__quote(const char *name)
{
    struct imf__quoted q;
    size_t i = 0;
    for (; name[i] && i < sizeof(q.text) - 4; i++)
        q.text[i] = (unsigned char)name[i] < 0x20 || name[i] == 0x7F ? '?' : name[i];
    if (name[i]) {
        memcpy(q.text + i, "...", 3);
        i += 3;
    }
    q.text[i] = '\0';
    return q;
}

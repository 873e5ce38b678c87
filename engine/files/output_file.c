/* output_file.h: buffered writing to a temporary neighbour, then rename. */
#include "files/output_file.h"

#include "common/error.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER (256u << 10)

static imf_status fail(const struct imf__output *o, struct imf_error *err, int number)
{
    return imf__fail(err, IMF_EIO, "%.300s: cannot be written: %s%s", o->path, strerror(number),
                     number == ENOSPC ? "; free some space and run the same command again" : "");
}

imf_status imf__output_open(struct imf__output *o, const char *path, struct imf_error *err)
{
    *o = (struct imf__output){.fd = -1, .path = strdup(path), .buffer = malloc(BUFFER)};
    struct stat st;
    bool special = stat(path, &st) == 0 && !S_ISREG(st.st_mode);
    imf_status status = IMF_OK;
    if (!o->path || !o->buffer ||
        (!special && asprintf(&o->temporary, "%s.part-%ld", path, (long)getpid()) < 0)) {
        o->temporary = NULL;
        status = imf__fail(err, IMF_ENOMEM, "%.300s: out of memory", path);
    } else {
        /* Not O_EXCL: one left behind by a crash under the same process id may go. */
        o->fd = special
                    ? open(path, O_WRONLY | O_CLOEXEC)
                    : open(o->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (o->fd < 0)
            status = fail(o, err, errno);
    }
    if (status != IMF_OK) {
        free(o->temporary); /* before discard, which would remove what is not ours */
        o->temporary = NULL;
        imf__output_discard(o);
    }
    return status;
}

static imf_status write_fully(struct imf__output *o, const uint8_t *p, size_t n,
                              struct imf_error *err)
{
    while (n) {
        ssize_t done = write(o->fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return fail(o, err, done < 0 ? errno : ENOSPC);
        p += done;
        n -= (size_t)done;
    }
    return IMF_OK;
}

static imf_status flush(struct imf__output *o, struct imf_error *err)
{
    size_t n = o->used;
    o->used = 0;
    return write_fully(o, o->buffer, n, err);
}

imf_status imf__output_write(struct imf__output *o, const void *data, size_t n,
                             struct imf_error *err)
{
    const uint8_t *p = data;
    o->size += n;
    while (n) {
        if (o->used == BUFFER) {
            imf_status status = flush(o, err);
            if (status != IMF_OK)
                return status;
        }
        size_t take = BUFFER - o->used < n ? BUFFER - o->used : n;
        memcpy(o->buffer + o->used, p, take);
        o->used += take;
        p += take;
        n -= take;
    }
    return IMF_OK;
}

imf_status imf__output_patch(struct imf__output *o, uint64_t offset, const void *data, size_t n,
                             struct imf_error *err)
{
    imf_status status = flush(o, err);
    if (status != IMF_OK)
        return status;
    ssize_t done;
    do {
        done = pwrite(o->fd, data, n, (off_t)offset);
    } while (done < 0 && errno == EINTR);
    return done == (ssize_t)n ? IMF_OK : fail(o, err, done < 0 ? errno : ENOSPC);
}

imf_status imf__output_commit(struct imf__output *o, struct imf_error *err)
{
    imf_status status = flush(o, err);
    if (status != IMF_OK)
        return status;
    if (o->durable && o->temporary && fsync(o->fd) != 0)
        return fail(o, err, errno);
    int fd = o->fd;
    o->fd = -1;
    /* Some file systems report a full disk only now. */
    if (close(fd) != 0)
        return fail(o, err, errno);
    if (o->temporary && rename(o->temporary, o->path) != 0)
        return fail(o, err, errno);
    free(o->temporary);
    o->temporary = NULL;
    return IMF_OK;
}

void imf__output_discard(struct imf__output *o)
{
    if (!o->path && !o->buffer)
        return;
    if (o->fd >= 0)
        close(o->fd);
    if (o->temporary)
        unlink(o->temporary);
    free(o->temporary);
    free(o->path);
    free(o->buffer);
    *o = (struct imf__output){.fd = -1};
}

imf_status imf__output_save(const char *path, const struct iovec *pieces, int n,
                            struct imf_error *err)
{
    struct imf__output o;
    imf_status status = imf__output_open(&o, path, err);
    for (int i = 0; i < n && status == IMF_OK; i++)
        status = imf__output_write(&o, pieces[i].iov_base, pieces[i].iov_len, err);
    if (status == IMF_OK)
        status = imf__output_commit(&o, err);
    imf__output_discard(&o);
    return status;
}

imf_status imf__output_folder(const char *path, struct imf_error *err)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof(part))
        return imf__fail(err, IMF_EIO, "\"%.60s\": %s", path, strerror(n ? ENAMETOOLONG : ENOENT));
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return imf__fail(err, IMF_EIO, "%s: cannot be made: %s", part, strerror(errno));
    }
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode) || access(path, W_OK | X_OK) != 0)
        return imf__fail(err, IMF_EIO, "%s: not a folder that can be written", path);
    return IMF_OK;
}

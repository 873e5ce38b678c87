/* A whole file in memory; see read_file.h. */
#include "base/read_file.h"
#include "common/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* realloc would leave a copy behind, and a file may hold keys. */
static char *grow(char *buffer, size_t used, size_t capacity)
{
    char *grown = malloc(capacity);
    if (grown && buffer)
        memcpy(grown, buffer, used);
    if (buffer)
        explicit_bzero(buffer, used);
    free(buffer);
    return grown;
}

imf_status imfd_read_file(char **text, size_t *size, const char *path, size_t max, bool or_stdin,
                          struct imf_error *err)
{
    struct stat st;
    bool is_stdin = or_stdin && strcmp(path, "-") == 0;
    FILE *f = is_stdin ? stdin : fopen(path, "rbe");
    if (!f)
        return imf__fail(err, IMF_EIO, "%s: %s", path, strerror(errno));
    if (!is_stdin)
        setvbuf(f, NULL, _IONBF, 0); /* another copy */
    bool sized = fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0;
    imf_status status = IMF_OK;
    char *buffer = NULL;
    /* Two more than the file has: its end, and what tells that it has not grown. */
    size_t used = 0, capacity = sized && (size_t)st.st_size < max ? (size_t)st.st_size + 2 : 4096;
    for (; status == IMF_OK && !feof(f); capacity *= 2) {
        buffer = grow(buffer, used, capacity);
        if (buffer)
            used += fread(buffer + used, 1, capacity - used - 1, f);
        if (!buffer)
            status = imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
        else if (ferror(f))
            status = imf__fail(err, IMF_EIO, "%s: %s", path, strerror(errno));
        else if (used > max)
            status = imf__fail(err, IMF_EINVAL, "%s: larger than %zu bytes", path, max);
    }
    if (!is_stdin)
        fclose(f);
    if (status != IMF_OK) {
        if (buffer)
            explicit_bzero(buffer, used);
        free(buffer);
        return status;
    }
    buffer[used] = '\0';
    *text = buffer;
    *size = used;
    return IMF_OK;
}

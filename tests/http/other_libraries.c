/* LD_PRELOAD: libraries of another release, which write other files of the same pixels. OTHER_LIBRARY
 * says whose: png, jpeg or webp. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <stdio.h> /* jpeglib.h wants it */

#include <jpeglib.h>
#include <libdeflate.h>
#include <webp/encode.h>

static bool is_other(const char *name)
{
    const char *other = getenv("OTHER_LIBRARY");
    return other && strcmp(other, name) == 0;
}

static void *real(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);
    if (!f)
        abort();
    return f;
}

/* The function `name` of the library itself, into a pointer of its type. */
#define REAL(pointer, name) (*(void **)&(pointer) = real(name))

struct libdeflate_compressor *libdeflate_alloc_compressor(int level)
{
    struct libdeflate_compressor *(*next)(int);
    REAL(next, "libdeflate_alloc_compressor");
    return next(is_other("png") && level > 6 ? 6 : level);
}

void jpeg_set_quality(j_compress_ptr c, int quality, boolean baseline)
{
    void (*next)(j_compress_ptr, int, boolean);
    REAL(next, "jpeg_set_quality");
    next(c, is_other("jpeg") ? quality - 1 : quality, baseline);
}

int WebPEncode(const WebPConfig *config, WebPPicture *picture)
{
    int (*next)(const WebPConfig *, WebPPicture *);
    WebPConfig other = *config;
    REAL(next, "WebPEncode");
    other.quality -= is_other("webp");
    return next(&other, picture);
}

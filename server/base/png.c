/* PNG encoding. The container is written here, a few chunks and their CRCs; rows are filtered with
 * vectorised loops and packed by deflate_runs: on photographs that is smaller than libpng over zlib
 * at level 1 and about as small as at its default level, 60 times as fast, see docs/performance.md.
 * Level 9 searches for matches with libdeflate, 2 % smaller for over 100 times the work. libpng
 * reads the results back in the tests. */
#include "base/png.h"
#include "base/deflate.h"

#include <libdeflate.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SIDE 16384

/* Filter types of PNG 1.2 section 6; ADAPTIVE chooses one per row. */
enum filter { NONE, SUB, UP, AVERAGE, PAETH, ADAPTIVE };

struct png_encoder {
    struct libdeflate_compressor *deflate; /* NULL with runs */
    bool runs;                             /* deflate_runs instead of libdeflate */
    enum filter filter;
    uint8_t *rows; /* filtered picture: height x (1 + 3 width) */
    size_t rows_size;
    uint8_t *trial; /* one filtered row, for ADAPTIVE */
    size_t trial_size;
    uint8_t *packed; /* the zlib stream */
    size_t packed_size;
};

imf_status png_encoder_create(struct png_encoder **out, int level)
{
    if (level != 0 && level != 1 && level != 9)
        return IMF_EINVAL;
    struct png_encoder *e = calloc(1, sizeof(*e));
    if (!e)
        return IMF_ENOMEM;
    e->runs = level == 1;
    if (!e->runs)
        e->deflate = libdeflate_alloc_compressor(level == 0 ? 0 : 12);
    if (!e->runs && !e->deflate) {
        free(e);
        return IMF_ENOMEM;
    }
    e->filter = level == 0 ? NONE : level == 1 ? PAETH : ADAPTIVE;
    *out = e;
    return IMF_OK;
}

void png_encoder_destroy(struct png_encoder *e)
{
    if (!e)
        return;
    libdeflate_free_compressor(e->deflate);
    free(e->rows);
    free(e->trial);
    free(e->packed);
    free(e);
}

/* ---- Filters --------------------------------------------------------------------------------- */

/* The predictors below run over whole rows of `size` bytes, 3 bytes a pixel; `up` is the row above
 * (zeros above the first). The first pixel has nothing at its left. Loops are written so that the
 * compiler vectorises them: no branches, 16-bit arithmetic in Paeth. */

static void filter_sub(uint8_t *restrict dst, const uint8_t *restrict row, size_t size)
{
    memcpy(dst, row, 3);
    for (size_t i = 3; i < size; i++)
        dst[i] = (uint8_t)(row[i] - row[i - 3]);
}

static void filter_up(uint8_t *restrict dst, const uint8_t *restrict row,
                      const uint8_t *restrict up, size_t size)
{
    for (size_t i = 0; i < size; i++)
        dst[i] = (uint8_t)(row[i] - up[i]);
}

static void filter_average(uint8_t *restrict dst, const uint8_t *restrict row,
                           const uint8_t *restrict up, size_t size)
{
    for (size_t i = 0; i < 3; i++)
        dst[i] = (uint8_t)(row[i] - (up[i] >> 1));
    for (size_t i = 3; i < size; i++)
        dst[i] = (uint8_t)(row[i] - ((row[i - 3] + up[i]) >> 1));
}

static void filter_paeth(uint8_t *restrict dst, const uint8_t *restrict row,
                         const uint8_t *restrict up, size_t size)
{
    for (size_t i = 0; i < 3; i++)
        dst[i] = (uint8_t)(row[i] - up[i]);
    for (size_t i = 3; i < size; i++) {
        int16_t a = row[i - 3], b = up[i], c = up[i - 3];
        int16_t pa = (int16_t)(b - c), pb = (int16_t)(a - c), pc = (int16_t)(pa + pb);
        pa = (int16_t)(pa < 0 ? -pa : pa);
        pb = (int16_t)(pb < 0 ? -pb : pb);
        pc = (int16_t)(pc < 0 ? -pc : pc);
        int16_t bc = pb <= pc ? b : c;
        int16_t nearest = ((pa <= pb) & (pa <= pc)) ? a : bc;
        dst[i] = (uint8_t)(row[i] - nearest);
    }
}

static void filter_row(enum filter f, uint8_t *dst, const uint8_t *row, const uint8_t *up,
                       size_t size)
{
    dst[0] = (uint8_t)f;
    switch (f) {
    case SUB:
        filter_sub(dst + 1, row, size);
        break;
    case UP:
        filter_up(dst + 1, row, up, size);
        break;
    case AVERAGE:
        filter_average(dst + 1, row, up, size);
        break;
    case PAETH:
        filter_paeth(dst + 1, row, up, size);
        break;
    default:
        memcpy(dst + 1, row, size);
        break;
    }
}

/* Sum of the bytes taken as signed magnitudes: libpng's guess at how well a row will compress. */
static uint32_t magnitude(const uint8_t *filtered, size_t size)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        int8_t v = (int8_t)filtered[i];
        sum += (uint8_t)(v < 0 ? -v : v);
    }
    return sum;
}

static void filter_best(uint8_t *dst, uint8_t *trial, const uint8_t *row, const uint8_t *up,
                        size_t size)
{
    static const enum filter candidates[] = {PAETH, UP, SUB, AVERAGE};
    uint32_t best = UINT32_MAX;
    for (size_t k = 0; k < sizeof(candidates) / sizeof(candidates[0]); k++) {
        filter_row(candidates[k], trial, row, up, size);
        uint32_t m = magnitude(trial + 1, size);
        if (m < best) {
            best = m;
            memcpy(dst, trial, size + 1);
        }
    }
}

static void filter_picture(struct png_encoder *e, const uint8_t *rgb, int width, int height)
{
    size_t stride = 3 * (size_t)width;
    memset(e->trial, 0, stride);
    const uint8_t *up = e->trial; /* zeros, read for the first row only */
    uint8_t *trial = e->trial + stride;
    uint8_t *dst = e->rows;
    for (int y = 0; y < height; y++, dst += stride + 1, rgb += stride) {
        if (e->filter == ADAPTIVE)
            filter_best(dst, trial, rgb, up, stride);
        else
            filter_row(e->filter, dst, rgb, up, stride);
        up = rgb;
    }
}

/* ---- Chunks ---------------------------------------------------------------------------------- */

static uint8_t *put_u32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
    return p + 4;
}

/* A chunk's data starts 8 bytes after the chunk; chunk_end writes length, type and CRC around. */
static uint8_t *chunk_end(uint8_t *chunk, const char *type, size_t size)
{
    put_u32(chunk, (uint32_t)size);
    memcpy(chunk + 4, type, 4);
    return put_u32(chunk + 8 + size, libdeflate_crc32(0, chunk + 4, size + 4));
}

static bool is_ascii(const char *s)
{
    for (; *s != '\0'; s++) {
        if ((unsigned char)*s >= 0x80)
            return false;
    }
    return true;
}

#define TEXT_OVERHEAD (12 + 20 + 5) /* chunk framing, keyword with its zero, iTXt's own fields */

static uint8_t *put_text(uint8_t *p, const char *keyword, const char *text, size_t size, bool ascii)
{
    if (size == 0)
        return p;
    uint8_t *d = p + 8;
    size_t keyword_size = strlen(keyword) + 1;
    memcpy(d, keyword, keyword_size);
    d += keyword_size;
    if (!ascii) {
        memset(d, 0, 4); /* not compressed, method 0, no language, no translated keyword */
        d += 4;
    }
    memcpy(d, text, size);
    return chunk_end(p, ascii ? "tEXt" : "iTXt", (size_t)(d - (p + 8)) + size);
}

static imf_status reserve(uint8_t **buffer, size_t *have, size_t need)
{
    if (*have >= need)
        return IMF_OK;
    uint8_t *grown = realloc(*buffer, need);
    if (!grown)
        return IMF_ENOMEM;
    *buffer = grown;
    *have = need;
    return IMF_OK;
}

imf_status png_encode(struct png_encoder *e, const uint8_t *rgb, int width, int height,
                      const struct picture_text *text, struct blob **out)
{
    static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return IMF_EINVAL;
    size_t stride = 3 * (size_t)width, filtered = (stride + 1) * (size_t)height;
    if (reserve(&e->rows, &e->rows_size, filtered) != IMF_OK ||
        reserve(&e->trial, &e->trial_size, 2 * stride + 1) != IMF_OK)
        return IMF_ENOMEM;
    filter_picture(e, rgb, width, height);

    /* Packed into scratch first: a block of the bound's size would be mapped and unmapped for each
     * picture. */
    size_t bound = e->runs ? deflate_runs_bound(filtered)
                           : libdeflate_zlib_compress_bound(e->deflate, filtered);
    if (reserve(&e->packed, &e->packed_size, bound) != IMF_OK)
        return IMF_ENOMEM;
    size_t packed = e->runs
                        ? deflate_runs(e->packed, e->rows, filtered)
                        : libdeflate_zlib_compress(e->deflate, e->rows, filtered, e->packed, bound);
    char xmp[METADATA_MAX_XMP];
    size_t parameters_size = text ? strlen(text->parameters) : 0;
    size_t imfd_size = text ? strlen(text->imfd) : 0;
    size_t xmp_size = text ? metadata_xmp(text, xmp) : 0;
    size_t text_bound = parameters_size + imfd_size + xmp_size + 3 * TEXT_OVERHEAD;
    struct blob *b = blob_new(8 + 25 + text_bound + 12 + packed + 12);
    if (!b)
        return IMF_ENOMEM;
    uint8_t *p = b->data;
    memcpy(p, signature, 8);
    p += 8;
    put_u32(p + 8, (uint32_t)width);
    put_u32(p + 12, (uint32_t)height);
    memcpy(p + 16, "\x08\x02\x00\x00\x00", 5); /* 8 bits, RGB, deflate, 5 filters, no interlace */
    p = chunk_end(p, "IHDR", 13);
    b->text_offset = (size_t)(p - b->data);
    if (text) {
        p = put_text(p, "parameters", text->parameters, parameters_size,
                     is_ascii(text->parameters));
        p = put_text(p, "imfd", text->imfd, imfd_size, is_ascii(text->imfd));
        p = put_text(p, "XML:com.adobe.xmp", xmp, xmp_size, false);
    }
    b->text_size = (size_t)(p - b->data) - b->text_offset;
    memcpy(p + 8, e->packed, packed);
    p = chunk_end(p, "IDAT", packed);
    p = chunk_end(p, "IEND", 0);

    b->size = (size_t)(p - b->data);
    *out = b;
    return IMF_OK;
}

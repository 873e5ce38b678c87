/* Values of a tensor, as float32 in C order, through a bounded buffer.
 *
 * Contiguous float32, the usual case, goes straight from the file into dst in pieces that stay in
 * the L2 cache while they are checked and hashed. float16, bfloat16 and float64 pass through the
 * checkpoint's buffer. Strided views are read in the order of the storage and scattered. Files are
 * never mapped: mapped pages count as this process's memory. */
#include "files/checkpoint_parts.h"
#include "common/bfloat16.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <zlib.h>

/* ---- Conversion and the check for NaN and infinity ------------------------------------------ */

/* Each converts n stored values and returns nonzero when one of them is not finite. The loops are
 * free of branches so that the compiler vectorises them. */

static uint32_t check_f32(const float *x, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        /* Only an exponent of all ones carries into the sign bit. */
        bad |= (bits & 0x7FFFFFFFu) + 0x00800000u;
    }
    return bad & 0x80000000u;
}

static uint32_t from_f16(float *dst, const uint8_t *src, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, 2);
        uint32_t magnitude = h & 0x7FFFu;
        bad |= magnitude + 0x0400u;
        /* Exponent and mantissa in float32's places, then 2^112 corrects the bias: exact, also
         * for subnormals. */
        uint32_t bits = magnitude << 13;
        float value;
        memcpy(&value, &bits, 4);
        value *= 0x1p112f;
        memcpy(&bits, &value, 4);
        bits |= (uint32_t)(h & 0x8000u) << 16;
        memcpy(&dst[i], &bits, 4);
    }
    return bad & 0x8000u;
}

static uint32_t from_bf16(float *dst, const uint8_t *src, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, 2);
        bad |= (h & 0x7FFFu) + 0x0080u;
        dst[i] = imf__from_bf16(h);
    }
    return bad & 0x8000u;
}

static uint32_t from_f64(float *dst, const uint8_t *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double d;
        memcpy(&d, src + 8 * i, 8);
        dst[i] = (float)d;
    }
    return check_f32(dst, n); /* also catches values beyond float32's range */
}

static uint32_t convert(enum imf__stored_type type, float *dst, const uint8_t *src, size_t n)
{
    switch (type) {
    case IMF__STORED_F16:
        return from_f16(dst, src, n);
    case IMF__STORED_BF16:
        return from_bf16(dst, src, n);
    case IMF__STORED_F64:
        return from_f64(dst, src, n);
    default:
        memcpy(dst, src, 4 * n);
        return check_f32(dst, n);
    }
}

static void negate(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = -x[i];
}

/* ---- Contiguous ------------------------------------------------------------------------------ */

static imf_status not_finite(const struct imf__checkpoint *c, const struct imf__entry *e,
                             const float *values, uint64_t first, size_t n, struct imf_error *err)
{
    /* from_f16 turns infinity and NaN into 65536 and above, which no float16 is. */
    bool f16 = e->tensor.type == IMF__STORED_F16;
    size_t i = 0;
    while (i + 1 < n && !check_f32(&values[i], 1) && !(f16 && fabsf(values[i]) >= 65536.0f))
        i++;
    return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\": element %llu is NaN or infinite",
                     c->files[e->place.file].label, imf__quote(e->tensor.name).text,
                     (unsigned long long)first + i);
}

static imf_status read_contiguous(struct imf__checkpoint *c, const struct imf__entry *e, float *dst,
                                  struct imf_error *err)
{
    const struct imf__file *f = &c->files[e->place.file];
    uint64_t offset = e->place.offset + e->place.start * e->place.item;
    bool direct = e->tensor.type == IMF__STORED_F32;
    size_t piece = IMF__BUFFER / e->place.item;
    /* A tensor that is all of its storage, the usual case, is checked against the checksum. */
    bool whole = e->place.crc && e->tensor.count * e->place.item == e->place.bytes;
    uint32_t crc = 0;
    for (uint64_t done = 0; done < e->tensor.count;) {
        size_t n = e->tensor.count - done < piece ? (size_t)(e->tensor.count - done) : piece;
        float *to = dst + done;
        imf_status status = imf__file_read(f, direct ? (void *)to : (void *)c->buffer,
                                           n * e->place.item, offset, err);
        if (status != IMF_OK)
            return status;
        if (whole)
            crc = (uint32_t)crc32_z(crc, direct ? (const void *)to : (const void *)c->buffer,
                                    n * e->place.item);
        if (direct ? check_f32(to, n) : convert(e->tensor.type, to, c->buffer, n))
            return not_finite(c, e, to, done, n, err);
        if (e->place.negated)
            negate(to, n);
        XXH3_128bits_update(c->hash, to, n * sizeof(float));
        done += n;
        offset += n * e->place.item;
    }
    if (whole && imf__crc_differs(crc, e->place.crc))
        return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\": its data is damaged (checksum)",
                         f->label, imf__quote(e->tensor.name).text);
    return IMF_OK;
}

/* ---- Strided --------------------------------------------------------------------------------- */

/* One dimension of the walk: extent, step in the storage and in dst, both in elements. */
struct axis {
    uint64_t extent, from, to;
};

/* Axes of extent 1 dropped, the largest storage stride first: walked like this, a transposed
 * tensor's elements come in the order of the file. Returns how many there are. */
static int walk_order(const struct imf__entry *e, struct axis *axes)
{
    int n = 0;
    uint64_t to = 1;
    for (int i = e->tensor.ndim - 1; i >= 0; i--) {
        uint64_t extent = (uint64_t)e->tensor.shape[i];
        if (extent > 1) {
            struct axis a = {extent, (uint64_t)e->place.stride[i], to};
            int at = n++;
            while (at > 0 && axes[at - 1].from < a.from) {
                axes[at] = axes[at - 1];
                at--;
            }
            axes[at] = a;
        }
        to *= extent;
    }
    return n;
}

/* A window of the storage: elements [first, first + count) are in the checkpoint's buffer. */
struct window {
    uint64_t first, count;
};

/* Makes element `at` available; `wide` reads on as far as the buffer goes. */
static imf_status window_move(struct imf__checkpoint *c, const struct imf__entry *e,
                              struct window *w, uint64_t at, bool wide, struct imf_error *err)
{
    if (at >= w->first && at - w->first < w->count)
        return IMF_OK;
    uint64_t left = e->place.bytes / e->place.item - at;
    uint64_t n = wide ? IMF__BUFFER / e->place.item : 1;
    w->first = at;
    w->count = n < left ? n : left;
    return imf__file_read(&c->files[e->place.file], c->buffer, (size_t)w->count * e->place.item,
                          e->place.offset + at * e->place.item, err);
}

static imf_status read_strided(struct imf__checkpoint *c, const struct imf__entry *e, float *dst,
                               struct imf_error *err)
{
    struct axis axes[IMF__MAX_DIMS] = {{0}};
    uint64_t index[IMF__MAX_DIMS] = {0};
    int n = walk_order(e, axes);
    /* Elements far apart are read one by one: a whole window each would be mostly waste. */
    bool wide = n == 0 || axes[n - 1].from * e->place.item <= 4096;
    struct window w = {0, 0};
    uint64_t from = e->place.start, to = 0;
    for (uint64_t done = 0; done < e->tensor.count; done++) {
        imf_status status = window_move(c, e, &w, from, wide, err);
        if (status != IMF_OK)
            return status;
        const uint8_t *value = c->buffer + (from - w.first) * e->place.item;
        if (convert(e->tensor.type, dst + to, value, 1))
            return not_finite(c, e, dst + to, to, 1, err);
        for (int a = n - 1; a >= 0; a--) {
            from += axes[a].from;
            to += axes[a].to;
            if (++index[a] < axes[a].extent)
                break;
            from -= axes[a].extent * axes[a].from;
            to -= axes[a].extent * axes[a].to;
            index[a] = 0;
        }
    }
    if (e->place.negated)
        negate(dst, e->tensor.count);
    XXH3_128bits_update(c->hash, dst, e->tensor.count * sizeof(float));
    return IMF_OK;
}

/* ---- Both ------------------------------------------------------------------------------------ */

imf_status imf__checkpoint_read(struct imf__checkpoint *c, const struct imf__tensor *t, float *dst,
                                struct imf_error *err)
{
    const struct imf__entry *e = (const struct imf__entry *)t;
    assert(e >= c->entries && e < c->entries + c->count);
    if (t->type == IMF__STORED_OTHER)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: tensor \"%s\": its type is neither float32, float16, bfloat16 nor "
                         "float64",
                         c->files[e->place.file].label, imf__quote(t->name).text);
    int64_t head[2 + IMF__MAX_DIMS] = {(int64_t)t->type, t->ndim};
    memcpy(head + 2, t->shape, (size_t)t->ndim * sizeof(t->shape[0]));
    XXH3_128bits_update(c->hash, t->name, strlen(t->name) + 1);
    XXH3_128bits_update(c->hash, head, (size_t)(2 + t->ndim) * sizeof(head[0]));
    return e->place.contiguous ? read_contiguous(c, e, dst, err) : read_strided(c, e, dst, err);
}

void imf__checkpoint_fingerprint(const struct imf__checkpoint *c, uint64_t out[2])
{
    XXH128_hash_t h = XXH3_128bits_digest(c->hash);
    out[0] = h.low64;
    out[1] = h.high64;
}

/* weights_write.h: the running position in the list of tensors, conversion, and the safetensors
 * container; torch's is in torch_write.c. */
#include "files/weights_write.h"

#include "common/bfloat16.h"
#include "common/error.h"
#include "files/output_file.h"
#include "files/torch_write.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 16384

struct imf__weights_writer {
    struct imf__weights_params params;
    struct imf__output out;
    struct imf__zip_writer zip;
    char prefix[64];
    bool torch;
    size_t item;   /* bytes per value */
    size_t next;   /* entry of the list being written */
    size_t key;    /* of torch's storages */
    uint64_t left; /* values of it still to come */
    uint16_t half[CHUNK];
};

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

static uint64_t count_of(const struct imf__name *name)
{
    uint64_t count = name->ndim > 0;
    for (int i = 0; i < name->ndim; i++)
        count *= (uint64_t)name->shape[i];
    return count;
}

/* ---- safetensors ----------------------------------------------------------------------------- */

static void json_string(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            fprintf(f, "\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            fprintf(f, "\\u%04x", *s);
        else
            fputc(*s, f);
    }
    fputc('"', f);
}

static void json_header(FILE *f, const struct imf__weights_params *p, size_t item)
{
    const char *dtype = p->type == IMF__STORED_F16    ? "F16"
                        : p->type == IMF__STORED_BF16 ? "BF16"
                                                      : "F32";
    fputs("{\"__metadata__\":{\"format\":\"pt\"", f);
    for (size_t i = 0; i < p->metadata_count; i++) {
        fputc(',', f);
        json_string(f, p->metadata[i][0]);
        fputc(':', f);
        json_string(f, p->metadata[i][1]);
    }
    fputc('}', f);
    uint64_t offset = 0;
    for (size_t i = 0; i < p->names->count; i++) {
        const struct imf__name *name = &p->names->items[i];
        if (name->ndim == 0)
            continue;
        fputc(',', f);
        json_string(f, name->name);
        fprintf(f, ":{\"dtype\":\"%s\",\"shape\":[", dtype);
        for (int d = 0; d < name->ndim; d++)
            fprintf(f, "%s%lld", d ? "," : "", (long long)name->shape[d]);
        uint64_t end = offset + count_of(name) * item;
        fprintf(f, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset,
                (unsigned long long)end);
        offset = end;
    }
    fputc('}', f);
}

static imf_status write_safetensors_header(struct imf__weights_writer *w, struct imf_error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (f) {
        json_header(f, &w->params, w->item);
        /* Data aligned to 8 bytes, padded with spaces, as the format asks. */
        for (long n = ftell(f); n > 0 && n % 8; n++)
            fputc(' ', f);
    }
    if (!f || ferror(f) || fclose(f) != 0) {
        free(text);
        return imf__fail(err, IMF_ENOMEM, "%.300s: out of memory", w->out.path);
    }
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)size >> 8 * i);
    imf_status status = imf__output_write(&w->out, length, sizeof(length), err);
    if (status == IMF_OK)
        status = imf__output_write(&w->out, text, size, err);
    free(text);
    return status;
}

/* ---- Conversion ------------------------------------------------------------------------------ */

static uint16_t to_f16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude >= 0x47800000) /* 65536 and above */
        return (uint16_t)(sign | 0x7C00);
    if (magnitude < 0x38800000) { /* below 2^-14: subnormal, in units of 2^-24 */
        float value;
        memcpy(&value, &magnitude, 4);
        /* At 0.5 a float's last place is 2^-24, so the addition rounds for us. */
        value += 0.5f;
        memcpy(&bits, &value, 4);
        return (uint16_t)(sign | (bits - 0x3F000000));
    }
    uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000) >> 13));
}

/* ---- Writer ---------------------------------------------------------------------------------- */

/* Moves to the next tensor that has values and opens its entry. */
static imf_status begin_tensor(struct imf__weights_writer *w, struct imf_error *err)
{
    const struct imf__names *names = w->params.names;
    while (w->next < names->count && names->items[w->next].ndim == 0)
        w->next++;
    if (w->next == names->count)
        return IMF_OK;
    w->left = count_of(&names->items[w->next]);
    if (!w->torch)
        return IMF_OK;
    char key[96];
    snprintf(key, sizeof(key), "%s/data/%zu", w->prefix, w->key++);
    return imf__zip_begin(&w->zip, key, w->left * w->item, err);
}

imf_status imf__weights_create(struct imf__weights_writer **out, const char *path,
                               const struct imf__weights_params *p, struct imf_error *err)
{
    bool torch = ends_with(path, ".pth") || ends_with(path, ".pt") || ends_with(path, ".bin");
    if (!torch && !ends_with(path, ".safetensors"))
        return imf__fail(err, IMF_EINVAL,
                         "%.300s: the name must end in .pth or .safetensors, which chooses the "
                         "format",
                         path);
    struct imf__weights_writer *w = calloc(1, sizeof(*w));
    if (!w)
        return imf__fail(err, IMF_ENOMEM, "%.300s: out of memory", path);
    w->params = *p;
    w->torch = torch;
    w->item = p->type == IMF__STORED_F32 ? 4 : 2;
    imf_status status = imf__output_open(&w->out, path, err);
    if (status == IMF_OK && torch) {
        imf__zip_writer_init(&w->zip, &w->out, p->force_zip64);
        imf__torch_prefix(w->prefix, path);
        status = imf__torch_write_head(&w->zip, w->prefix, p, err);
    } else if (status == IMF_OK) {
        status = write_safetensors_header(w, err);
    }
    if (status == IMF_OK)
        status = begin_tensor(w, err);
    if (status != IMF_OK) {
        imf__weights_discard(w);
        return status;
    }
    *out = w;
    return IMF_OK;
}

static imf_status write_values(struct imf__weights_writer *w, const void *data, size_t bytes,
                               struct imf_error *err)
{
    return w->torch ? imf__zip_append(&w->zip, data, bytes, err)
                    : imf__output_write(&w->out, data, bytes, err);
}

imf_status imf__weights_append(struct imf__weights_writer *w, const float *values, size_t n,
                               struct imf_error *err)
{
    assert(n <= w->left);
    w->left -= n;
    while (n) {
        size_t take = n < CHUNK ? n : CHUNK;
        for (size_t i = 0; i < take && w->item == 2; i++)
            w->half[i] =
                w->params.type == IMF__STORED_F16 ? to_f16(values[i]) : imf__to_bf16(values[i]);
        imf_status status =
            write_values(w, w->item == 2 ? (const void *)w->half : values, take * w->item, err);
        if (status != IMF_OK)
            return status;
        values += take;
        n -= take;
    }
    if (w->left)
        return IMF_OK;
    imf_status status = w->torch ? imf__zip_end(&w->zip, err) : IMF_OK;
    w->next++;
    return status == IMF_OK ? begin_tensor(w, err) : status;
}

imf_status imf__weights_commit(struct imf__weights_writer *w, struct imf_error *err)
{
    assert(w->next == w->params.names->count && w->left == 0);
    imf_status status = w->torch ? imf__zip_finish(&w->zip, err) : IMF_OK;
    return status == IMF_OK ? imf__output_commit(&w->out, err) : status;
}

void imf__weights_discard(struct imf__weights_writer *w)
{
    if (!w)
        return;
    imf__zip_writer_free(&w->zip);
    imf__output_discard(&w->out);
    free(w);
}

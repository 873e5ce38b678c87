/* torch_write.h: the pickle that torch.load wants of a state dict. */
#include "files/torch_write.h"

#include "common/error.h"
#include "files/bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void pickle_text(struct imf__bytes *b, const char *s)
{
    imf__bytes_text(b, "X"); /* BINUNICODE */
    imf__bytes_int(b, strlen(s), 4);
    imf__bytes_text(b, s);
}

static void pickle_int(struct imf__bytes *b, uint64_t n)
{
    if (n <= INT32_MAX) {
        imf__bytes_text(b, "J"); /* BININT */
        imf__bytes_int(b, n, 4);
    } else {
        imf__bytes_text(b, "\x8a\x08"); /* LONG1 of 8 bytes */
        imf__bytes_int(b, n, 8);
    }
}

static void pickle_tuple(struct imf__bytes *b, int n, const int64_t *values)
{
    imf__bytes_text(b, "(");
    for (int i = 0; i < n; i++)
        pickle_int(b, (uint64_t)values[i]);
    imf__bytes_text(b, "t");
}

static const char *storage_class(enum imf__stored_type type)
{
    return type == IMF__STORED_F16    ? "ctorch\nHalfStorage\n"
           : type == IMF__STORED_BF16 ? "ctorch\nBFloat16Storage\n"
                                      : "ctorch\nFloatStorage\n";
}

/* _rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict()) */
static void pickle_tensor(struct imf__bytes *b, const struct imf__name *name, size_t key,
                          enum imf__stored_type type)
{
    int64_t stride[4], count = 1;
    for (int i = name->ndim - 1; i >= 0; i--) {
        stride[i] = count;
        count *= name->shape[i];
    }
    char text[24];
    snprintf(text, sizeof(text), "%zu", key);
    imf__bytes_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_text(b, "storage");
    imf__bytes_text(b, storage_class(type));
    pickle_text(b, text);
    pickle_text(b, "cpu");
    pickle_int(b, (uint64_t)count);
    imf__bytes_text(b, "tQ"); /* the tuple is a persistent id */
    pickle_int(b, 0);
    pickle_tuple(b, name->ndim, name->shape);
    pickle_tuple(b, name->ndim, stride);
    imf__bytes_text(b, "\x89" /* False */ "ccollections\nOrderedDict\n)RtR");
}

static imf_status write_entry(struct imf__zip_writer *z, const char *prefix, const char *name,
                              const void *data, size_t n, struct imf_error *err)
{
    char path[96];
    snprintf(path, sizeof(path), "%s/%s", prefix, name);
    imf_status status = imf__zip_begin(z, path, n, err);
    if (status == IMF_OK)
        status = imf__zip_append(z, data, n, err);
    return status == IMF_OK ? imf__zip_end(z, err) : status;
}

void imf__torch_prefix(char prefix[64], const char *path)
{
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    const char *dot = strrchr(name, '.');
    int n = dot && dot > name ? (int)(dot - name) : (int)strlen(name);
    snprintf(prefix, 64, "%.*s", n < 60 ? n : 60, name);
}

imf_status imf__torch_write_head(struct imf__zip_writer *z, const char *prefix,
                                 const struct imf__weights_params *p, struct imf_error *err)
{
    struct imf__bytes b = {0};
    imf__bytes_text(&b, "\x80\x02" /* protocol 2 */ "ccollections\nOrderedDict\n)R(");
    size_t key = 0;
    for (size_t i = 0; i < p->names->count; i++) {
        const struct imf__name *name = &p->names->items[i];
        if (name->ndim == 0)
            continue;
        pickle_text(&b, name->name);
        pickle_tensor(&b, name, key++, p->type);
    }
    imf__bytes_text(&b, "u.");
    imf_status status = b.failed ? imf__fail(err, IMF_ENOMEM, "%.300s: out of memory", z->out->path)
                                 : write_entry(z, prefix, "data.pkl", b.data, b.size, err);
    free(b.data);
    if (status == IMF_OK)
        status = write_entry(z, prefix, "byteorder", "little", 6, err);
    return status == IMF_OK ? write_entry(z, prefix, "version", "3\n", 2, err) : status;
}

/* torch.save's zip format: NAME/data.pkl describes the tensors, NAME/data/KEY are the storages.
 *
 * torch stores; archives that were unpacked and packed again may be deflated. Such entries are
 * inflated into a file in memory, beside the archive, so that tensors can be read at any place. */
#include "files/torch_state.h"
#include "files/zip.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_PICKLE_MEMORY (256u << 20)
/* Weights are noise, which hardly shrinks; zeros do, and could fill any memory. */
#define MAX_EXPANSION 64

struct archive {
    struct imf__checkpoint *c;
    struct imf__file file; /* a copy: the checkpoint's list may move */
    uint32_t index;        /* in that list */
    struct imf__zip zip;
    const char *prefix; /* "mit_tiny" of mit_tiny/data.pkl */
    int prefix_length;
    uint32_t inflated; /* the file in memory; 0: none yet */
};

/* Finds "PREFIX/data.pkl", which names the prefix of everything else. */
static const struct imf__zip_entry *find_pickle(struct archive *z)
{
    static const char suffix[] = "/data.pkl";
    const size_t n = sizeof(suffix) - 1;
    for (uint64_t i = 0; i < z->zip.count; i++) {
        const struct imf__zip_entry *e = &z->zip.entries[i];
        if (e->name_length > n && memcmp(e->name + e->name_length - n, suffix, n) == 0 &&
            !memchr(e->name, '/', e->name_length - n)) {
            z->prefix = e->name;
            z->prefix_length = (int)(e->name_length - n);
            return e;
        }
    }
    return NULL;
}

/* The entry PREFIX/name; NULL when it is not there. */
static const struct imf__zip_entry *find_in_prefix(const struct archive *z, const char *name)
{
    char *path;
    int n = asprintf(&path, "%.*s/%s", z->prefix_length, z->prefix, name);
    if (n < 0)
        return NULL;
    const struct imf__zip_entry *e = imf__zip_find(&z->zip, path, (size_t)n);
    free(path);
    return e;
}

/* ---- Deflated entries ------------------------------------------------------------------------ */

/* Appends an entry's bytes to the file in memory, whose size says where they begin. */
static imf_status inflate_entry(struct archive *z, const struct imf__zip_entry *e,
                                struct imf_error *err)
{
    struct imf__file *to = &z->c->files[z->inflated];
    if (to->size + e->size > MAX_EXPANSION * z->file.size)
        return imf__fail(err, IMF_EFORMAT, "is compressed more than weights can be");
    struct imf__zip_stream s;
    imf_status status = imf__zip_stream_open(&s, &z->zip, e, err);
    for (uint64_t left = e->size; left > 0 && status == IMF_OK;) {
        size_t n = left < IMF__BUFFER ? (size_t)left : IMF__BUFFER;
        status = imf__zip_stream_read(&s, z->c->buffer, n, err);
        if (status == IMF_OK &&
            pwrite(to->fd, z->c->buffer, n, (off_t)(to->size + e->size - left)) != (ssize_t)n)
            status = imf__fail(err, IMF_ENOMEM, "cannot be inflated: %s", strerror(errno));
        left -= n;
    }
    if (status == IMF_OK)
        status = imf__zip_stream_check(&s, err);
    if (status == IMF_OK)
        to->size += e->size;
    imf__zip_stream_close(&s);
    return status;
}

/* Where an entry's bytes are; an error goes behind the entry's name. */
static imf_status find_bytes(struct archive *z, const struct imf__zip_entry *e,
                             struct imf__region *out, struct imf_error *err)
{
    *out = (struct imf__region){.file = z->index, .bytes = e->size, .crc = e->crc};
    if (e->method != IMF__ZIP_DEFLATED || (e->flags & 1))
        return imf__zip_locate(&z->zip, e, &out->offset, err);
    if (!z->inflated) {
        IMF_TRY(imf__checkpoint_add_memory(z->c, err));
        z->inflated = z->c->file_count - 1;
    }
    out->file = z->inflated;
    out->offset = z->c->files[z->inflated].size;
    out->crc = 0; /* verified while inflating */
    return inflate_entry(z, e, err);
}

static imf_status find_storage(void *user, const struct imf__pickle_storage *storage,
                               struct imf__region *out, struct imf_error *err)
{
    struct archive *z = user;
    char name[80];
    snprintf(name, sizeof(name), "data/%s", storage->key);
    const struct imf__zip_entry *e = find_in_prefix(z, name);
    if (!e)
        return imf__fail(err, IMF_EFORMAT, "is missing from the zip");
    uint64_t needed;
    if (!imf__mul(&needed, storage->count, storage->item) || needed > e->size)
        return imf__fail(err, IMF_EFORMAT, "has %llu bytes, %llu needed",
                         (unsigned long long)e->size,
                         (unsigned long long)storage->count * storage->item);
    return find_bytes(z, e, out, err);
}

/* ---- The state dict -------------------------------------------------------------------------- */

/* find_bytes with the entry's name in front of an error. */
static imf_status find_named(struct archive *z, const struct imf__zip_entry *e, const char *name,
                             struct imf__region *out, struct imf_error *err)
{
    struct imf_error why = {0};
    imf_status status = find_bytes(z, e, out, &why);
    if (status != IMF_OK)
        return imf__fail(err, status, "%s: zip entry %s %.200s", z->file.label, name, why.message);
    return IMF_OK;
}

/* torch 2 writes PREFIX/byteorder; older ones were always little-endian. */
static imf_status check_byte_order(struct archive *z, struct imf_error *err)
{
    const struct imf__zip_entry *e = find_in_prefix(z, "byteorder");
    if (!e)
        return IMF_OK;
    char text[6] = {0};
    struct imf__region at;
    imf_status status = find_named(z, e, "byteorder", &at, err);
    if (status == IMF_OK && e->size == sizeof(text))
        status = imf__file_read(&z->c->files[at.file], text, sizeof(text), at.offset, err);
    if (status == IMF_OK && memcmp(text, "little", sizeof(text)) != 0)
        return imf__fail(err, IMF_EUNSUPPORTED, "%s: written on a big-endian machine",
                         z->file.label);
    return status;
}

/* The checksum of data.pkl, before anything in it is believed. */
static imf_status check_pickle(const struct archive *z, const struct imf__region *at,
                               struct imf_error *err)
{
    uint32_t crc = 0;
    for (uint64_t done = 0; at->crc && done < at->bytes;) {
        size_t n = at->bytes - done < IMF__BUFFER ? (size_t)(at->bytes - done) : IMF__BUFFER;
        IMF_TRY(imf__file_read(&z->file, z->c->buffer, n, at->offset + done, err));
        crc = (uint32_t)crc32_z(crc, z->c->buffer, n);
        done += n;
    }
    if (imf__crc_differs(crc, at->crc))
        return imf__fail(err, IMF_EFORMAT, "%s: zip entry data.pkl is damaged (checksum)",
                         z->file.label);
    return IMF_OK;
}

/* A zip of something else: what it holds, as far as that helps. */
static imf_status no_pickle(const struct archive *z, struct imf_error *err)
{
    for (uint64_t i = 0; i < z->zip.count; i++) {
        const struct imf__zip_entry *e = &z->zip.entries[i];
        if (e->name_length > 4 && memcmp(e->name + e->name_length - 4, ".npy", 4) == 0)
            return imf__fail(err, IMF_EFORMAT, "%s: a NumPy archive (.npz), not a checkpoint",
                             z->file.label);
    }
    return imf__fail(
        err, IMF_EFORMAT,
        "%s: zip: no data.pkl inside: not written by torch.save (weights packed into a "
        "zip must be unpacked first)",
        z->file.label);
}

static imf_status read_state(struct archive *z, struct imf_error *err)
{
    IMF_TRY(imf__zip_open(&z->zip, &z->file, IMF__MAX_TENSORS, err));
    const struct imf__zip_entry *e = find_pickle(z);
    if (!e)
        return no_pickle(z, err);
    if (find_in_prefix(z, "constants.pkl"))
        return imf__fail(err, IMF_EUNSUPPORTED, "%s: a TorchScript program, not a state dict",
                         z->file.label);
    struct imf__region at;
    IMF_TRY(check_byte_order(z, err));
    IMF_TRY(find_named(z, e, "data.pkl", &at, err));
    IMF_TRY(check_pickle(z, &at, err));
    struct imf__arena arena = {.limit = MAX_PICKLE_MEMORY};
    struct imf__reader reader;
    struct imf__pickle p = {0};
    struct imf__file from = z->c->files[at.file];
    memcpy(from.label, z->file.label, sizeof(from.label));
    imf__reader_init(&reader, &from, at.offset, at.offset + at.bytes);
    imf_status status = imf__pickle_run(&p, &arena, &reader, err);
    if (status == IMF_OK) {
        const struct imf__storage_source source = {find_storage, z, z->index};
        status = imf__torch_state_add(z->c, &p, &source, err);
    }
    imf__arena_free(&arena);
    return status;
}

imf_status imf__torch_zip_read(struct imf__checkpoint *c, uint32_t file, struct imf_error *err)
{
    c->format = "torch zip";
    struct archive z = {.c = c, .file = c->files[file], .index = file};
    imf_status status = read_state(&z, err);
    imf__zip_close(&z.zip);
    return status;
}

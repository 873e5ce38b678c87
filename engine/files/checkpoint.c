/* Checkpoints: opening and telling formats apart, the list of tensors, and looking names up.
 * Reading the values is in checkpoint_read.c; one file per format parses its directory. */
#include "files/checkpoint_parts.h"
#include "files/spellings.h"
#include "common/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* ---- Building the list ---------------------------------------------------------------------- */

/* Room for one more file. All places are made at once, so that readers may keep pointers to files
 * while they add more. */
static imf_status grow_files(struct imf__checkpoint *c, struct imf_error *err)
{
    if (c->file_count == IMF__MAX_SHARDS)
        return imf__fail(err, IMF_EFORMAT, "%s: more than %d shards", c->path, IMF__MAX_SHARDS);
    if (!c->files)
        c->files = calloc(IMF__MAX_SHARDS, sizeof(*c->files));
    return c->files ? IMF_OK : imf__fail(err, IMF_ENOMEM, "%s: out of memory", c->path);
}

imf_status imf__checkpoint_add_file(struct imf__checkpoint *c, const char *path,
                                    struct imf_error *err)
{
    IMF_TRY(grow_files(c, err));
    imf_status status = imf__file_open(&c->files[c->file_count], path, err);
    if (status == IMF_OK)
        c->file_count++;
    return status;
}

imf_status imf__checkpoint_add_memory(struct imf__checkpoint *c, struct imf_error *err)
{
    IMF_TRY(grow_files(c, err));
    struct imf__file *f = &c->files[c->file_count];
    *f = (struct imf__file){.fd = memfd_create("inflated weights", MFD_CLOEXEC), .in_memory = true};
    if (f->fd < 0)
        return imf__fail(err, IMF_ENOMEM, "%s: no memory to inflate it", c->path);
    memcpy(f->label, c->files[c->file_count - 1].label, sizeof(f->label));
    c->file_count++;
    return IMF_OK;
}

/* Highest element index that shape, stride and start reach, plus one; false on overflow. */
static bool elements_needed(const struct imf__entry *e, uint64_t *needed)
{
    uint64_t last = e->place.start;
    for (int i = 0; i < e->tensor.ndim; i++) {
        uint64_t span;
        if (!imf__mul(&span, (uint64_t)(e->tensor.shape[i] - 1), (uint64_t)e->place.stride[i]) ||
            !imf__add(&last, last, span))
            return false;
    }
    return imf__add(needed, last, 1);
}

static bool is_contiguous(const struct imf__entry *e)
{
    uint64_t expect = 1;
    for (int i = e->tensor.ndim - 1; i >= 0; i--) {
        if (e->tensor.shape[i] != 1 && (uint64_t)e->place.stride[i] != expect)
            return false;
        expect *= (uint64_t)e->tensor.shape[i];
    }
    return true;
}

/* Fills in count and contiguous; checks that the values lie in the region. */
static imf_status check_entry(struct imf__entry *e, const struct imf__file *f, const char *storage,
                              struct imf_error *err)
{
    struct imf__quoted name = imf__quote(e->tensor.name);
    uint64_t count = 1, end;
    for (int i = 0; i < e->tensor.ndim; i++) {
        if (e->tensor.shape[i] < 0 || e->place.stride[i] < 0)
            return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\": negative size or stride",
                             f->label, name.text);
        /* A dimension of 0 must not hide another that overflows. */
        uint64_t d = (uint64_t)e->tensor.shape[i];
        if (d > INT64_MAX / 16 || !imf__mul(&count, count, d) || count > INT64_MAX / 16)
            return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\": its shape overflows", f->label,
                             name.text);
    }
    e->tensor.count = count;
    if (!imf__add(&end, e->place.offset, e->place.bytes) || end > f->size)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: tensor \"%s\": %s needs bytes %llu to %llu, the file has %llu "
                         "(truncated?)",
                         f->label, name.text, storage, (unsigned long long)e->place.offset,
                         (unsigned long long)end, (unsigned long long)f->size);
    if (count == 0) {
        e->place.contiguous = true;
        return IMF_OK;
    }
    uint64_t needed, bytes;
    if (!elements_needed(e, &needed) || !imf__mul(&bytes, needed, e->place.item))
        return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\": its offset or strides overflow",
                         f->label, name.text);
    if (bytes > e->place.bytes)
        return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\": %s has %llu bytes, %llu needed",
                         f->label, name.text, storage, (unsigned long long)e->place.bytes,
                         (unsigned long long)bytes);
    e->place.contiguous = is_contiguous(e);
    /* Views that repeat elements (expand) could make a tiny file stand for any amount of memory. */
    if (count > needed && count > 1u << 24)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: tensor \"%s\": %llu elements out of a storage of %llu", f->label,
                         name.text, (unsigned long long)count, (unsigned long long)needed);
    return IMF_OK;
}

imf_status imf__checkpoint_add(struct imf__checkpoint *c, const struct imf__entry *entry,
                               const char *storage, struct imf_error *err)
{
    const struct imf__file *f = &c->files[entry->place.file];
    struct imf__entry e = *entry;
    size_t n = strlen(e.tensor.name);
    if (n > IMF__MAX_NAME)
        return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\": its name has %zu bytes, at most %d",
                         f->label, imf__quote(e.tensor.name).text, n, IMF__MAX_NAME);
    if (!imf__utf8_valid(e.tensor.name, n))
        return imf__fail(err, IMF_EFORMAT, "%s: a tensor's name is not UTF-8", f->label);
    imf_status status = check_entry(&e, f, storage, err);
    if (status != IMF_OK)
        return status;
    if (c->count == IMF__MAX_TENSORS)
        return imf__fail(err, IMF_EFORMAT, "%s: more than %u tensors", f->label, IMF__MAX_TENSORS);
    if (c->count == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 256;
        struct imf__entry *grown = realloc(c->entries, capacity * sizeof(*grown));
        if (!grown)
            return imf__fail(err, IMF_ENOMEM, "%s: out of memory", f->label);
        c->entries = grown;
        c->capacity = capacity;
    }
    char spelling[IMF__MAX_NAME + 1];
    size_t length = imf__spelling(spelling, e.tensor.name);
    e.tensor.name = imf__arena_string(&c->arena, e.tensor.name, n);
    e.tensor.spelling = imf__arena_string(&c->arena, spelling, length);
    if (!e.tensor.name || !e.tensor.spelling)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", f->label);
    c->entries[c->count++] = e;
    return IMF_OK;
}

imf_status imf__checkpoint_add_meta(struct imf__checkpoint *c, const char *key, const char *value,
                                    struct imf_error *err)
{
    if (imf__checkpoint_metadata(c, key))
        return IMF_OK; /* shards repeat it; the first one counts */
    if (c->meta_count == c->meta_capacity) {
        size_t capacity = c->meta_capacity ? 2 * c->meta_capacity : 8;
        struct imf__meta *grown = realloc(c->meta, capacity * sizeof(*grown));
        if (!grown)
            return imf__fail(err, IMF_ENOMEM, "%s: out of memory", c->path);
        c->meta = grown;
        c->meta_capacity = capacity;
    }
    struct imf__meta m = {imf__arena_string(&c->arena, key, strlen(key)),
                          imf__arena_string(&c->arena, value, strlen(value))};
    if (!m.key || !m.value)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", c->path);
    c->meta[c->meta_count++] = m;
    return IMF_OK;
}

/* By spelling, then by the very name; NULL comes before any name. */
static int compare_tensors(const struct imf__tensor *t, const char *spelling, const char *name)
{
    int order = strcmp(t->spelling, spelling);
    return order ? order : name ? strcmp(t->name, name) : 1;
}

imf_status imf__checkpoint_add_skipped(struct imf__checkpoint *c, const char *module,
                                       const char *name, struct imf_error *err)
{
    size_t n = strlen(module) + strlen(name) + 2;
    char *full = imf__arena_alloc(&c->arena, n);
    const char **grown = realloc(c->skipped, (c->skipped_count + 1) * sizeof(*grown));
    if (grown)
        c->skipped = grown;
    if (!full || !grown)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", c->path);
    snprintf(full, n, "%s.%s", module, name);
    c->skipped[c->skipped_count++] = full;
    return IMF_OK;
}

static int compare_names(const void *a, const void *b, void *entries)
{
    const struct imf__entry *e = entries;
    const struct imf__tensor *second = &e[*(const uint32_t *)b].tensor;
    return compare_tensors(&e[*(const uint32_t *)a].tensor, second->spelling, second->name);
}

/* Sorts the names for lookup; two of the same name are refused, since whichever was meant, the
 * other would be dropped in silence. */
static imf_status index_names(struct imf__checkpoint *c, struct imf_error *err)
{
    if (c->count == 0)
        return imf__fail(err, IMF_EFORMAT, "%s: holds no tensors", c->files[0].label);
    c->by_name = malloc(c->count * sizeof(*c->by_name));
    if (!c->by_name)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", c->files[0].label);
    for (size_t i = 0; i < c->count; i++)
        c->by_name[i] = (uint32_t)i;
    qsort_r(c->by_name, c->count, sizeof(*c->by_name), compare_names, c->entries);
    for (size_t i = 1; i < c->count; i++) {
        const struct imf__entry *e = &c->entries[c->by_name[i]];
        if (strcmp(c->entries[c->by_name[i - 1]].tensor.name, e->tensor.name) == 0)
            return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\" is there twice",
                             c->files[e->place.file].label, imf__quote(e->tensor.name).text);
    }
    return IMF_OK;
}

/* ---- Opening -------------------------------------------------------------------------------- */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static imf_status no_state_dicts(const struct imf__checkpoint *c, const char *path,
                                 struct imf_error *err)
{
    return imf__fail(err, IMF_EFORMAT,
                     "%.180s: a safetensors file has no state dicts to choose from, so no \"%s\"",
                     path, imf__quote(c->key).text);
}

imf_status imf__checkpoint_read_file(struct imf__checkpoint *c, uint32_t file,
                                     struct imf_error *err)
{
    const struct imf__file *f = &c->files[file];
    uint8_t head[512] = {0};
    size_t n = f->size < sizeof(head) ? (size_t)f->size : sizeof(head);
    imf_status status = imf__file_read(f, head, n, 0, err);
    if (status != IMF_OK)
        return status;
    const char *foreign = imf__foreign_format(head, n);
    if (n >= 9 && memcmp(head, "PK\3\4", 4) == 0)
        return imf__torch_zip_read(c, file, err);
    if (imf__is_safetensors(head, n, f->size))
        return c->key ? no_state_dicts(c, f->label, err) : imf__safetensors_read(c, file, err);
    if (foreign)
        return imf__fail(err, IMF_EFORMAT, "%s: %s", f->label, foreign);
    if (n < 9)
        return imf__fail(err, IMF_EFORMAT, "%s: %llu bytes are no checkpoint", f->label,
                         (unsigned long long)f->size);
    if (head[0] == 0x80)
        return imf__torch_legacy_read(c, file, err);
    if (ends_with(c->path, ".safetensors"))
        return imf__safetensors_read(c, file, err); /* which says what is wrong with it */
    return imf__fail(err, IMF_EFORMAT,
                     "%s: neither a torch zip, nor a torch legacy pickle, nor safetensors",
                     f->label);
}

static imf_status open_any(struct imf__checkpoint *c, const char *path, struct imf_error *err)
{
    if (ends_with(path, ".index.json"))
        return imf__shards_open(c, path, err);
    imf_status status = imf__checkpoint_add_file(c, path, err);
    return status == IMF_OK ? imf__checkpoint_read_file(c, 0, err) : status;
}

imf_status imf__checkpoint_open(struct imf__checkpoint **out, const char *path, const char *key,
                                struct imf_error *err)
{
    struct imf__checkpoint *c = calloc(1, sizeof(*c));
    if (!c)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    c->key = key;
    c->nesting = c->others = "";
    struct stat st;
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    struct imf_error why = {.status = IMF_ENOMEM};
    c->path = folder ? imf__weights_in_folder(path, &why) : strdup(path);
    c->buffer = aligned_alloc(64, IMF__BUFFER);
    c->hash = XXH3_createState();
    imf_status status = IMF_OK;
    if (folder && !c->path)
        status = imf__fail(err, why.status, "%s", why.message);
    else if (!c->path || !c->buffer || !c->hash)
        status = imf__fail(err, IMF_ENOMEM, "%.180s: out of memory", path);
    if (status == IMF_OK) {
        XXH3_128bits_reset(c->hash);
        status = open_any(c, c->path, err);
    }
    if (status == IMF_OK)
        status = index_names(c, err);
    if (status != IMF_OK) {
        imf__checkpoint_close(c);
        return status;
    }
    *out = c;
    return IMF_OK;
}

void imf__checkpoint_close(struct imf__checkpoint *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; i < c->file_count; i++)
        imf__file_close(&c->files[i]);
    imf__arena_free(&c->arena);
    XXH3_freeState(c->hash);
    free(c->files);
    free(c->entries);
    free(c->by_name);
    free(c->meta);
    free(c->skipped);
    free(c->buffer);
    free(c->path);
    free(c);
}

/* ---- Asking --------------------------------------------------------------------------------- */

const char *imf__checkpoint_path(const struct imf__checkpoint *c)
{
    return c->path;
}

const char *imf__checkpoint_format(const struct imf__checkpoint *c)
{
    return c->format;
}

const char *imf__checkpoint_nesting(const struct imf__checkpoint *c)
{
    return c->nesting;
}

const char *imf__checkpoint_others(const struct imf__checkpoint *c)
{
    return c->others;
}

uint64_t imf__checkpoint_bytes(const struct imf__checkpoint *c)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->file_count; i++)
        bytes += c->files[i].in_memory ? 0 : c->files[i].size;
    return bytes;
}

size_t imf__checkpoint_count(const struct imf__checkpoint *c)
{
    return c->count;
}

const struct imf__tensor *imf__checkpoint_at(const struct imf__checkpoint *c, size_t i)
{
    return &c->entries[i].tensor;
}

size_t imf__checkpoint_index(const struct imf__checkpoint *c, const struct imf__tensor *t)
{
    return (size_t)((const struct imf__entry *)t - c->entries);
}

/* Where in by_name the first tensor stands that is not before the given one. */
static size_t lower_bound(const struct imf__checkpoint *c, const char *spelling, const char *name)
{
    size_t low = 0, high = c->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_tensors(&c->entries[c->by_name[middle]].tensor, spelling, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct imf__tensor *imf__checkpoint_find(const struct imf__checkpoint *c, const char *name)
{
    char spelling[IMF__MAX_NAME + 1];
    if (strlen(name) > IMF__MAX_NAME)
        return NULL;
    imf__spelling(spelling, name);
    const char *const exact_first[] = {name, NULL};
    for (int i = 0; i < 2; i++) {
        size_t at = lower_bound(c, spelling, exact_first[i]);
        const struct imf__tensor *t = at < c->count ? &c->entries[c->by_name[at]].tensor : NULL;
        if (t && strcmp(t->spelling, spelling) == 0 && (i == 1 || strcmp(t->name, name) == 0))
            return t;
    }
    return NULL;
}

const char *imf__checkpoint_metadata(const struct imf__checkpoint *c, const char *key)
{
    for (size_t i = 0; i < c->meta_count; i++) {
        if (strcmp(c->meta[i].key, key) == 0)
            return c->meta[i].value;
    }
    return NULL;
}

size_t imf__checkpoint_skipped_count(const struct imf__checkpoint *c)
{
    return c->skipped_count;
}

const char *imf__checkpoint_skipped_at(const struct imf__checkpoint *c, size_t i)
{
    return c->skipped[i];
}

size_t imf__checkpoint_metadata_count(const struct imf__checkpoint *c)
{
    return c->meta_count;
}

void imf__checkpoint_metadata_at(const struct imf__checkpoint *c, size_t i, const char **key,
                                 const char **value)
{
    *key = c->meta[i].key;
    *value = c->meta[i].value;
}

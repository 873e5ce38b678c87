/* What the checkpoint readers share: the open files, the growing list of tensors with the places
 * their values live in, and a bounded arena for names. A reader (safetensors.c, torch_zip.c,
 * torch_legacy.c) adds tensors; checkpoint.c owns everything and reads the values. */
#ifndef IMF__CHECKPOINT_PARTS_H
#define IMF__CHECKPOINT_PARTS_H

#include "files/checkpoint.h"
#include "files/file.h"
#include "common/error.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Bounds on what a file may ask for; real checkpoints stay far below them. */
#define IMF__MAX_TENSORS (1u << 20)
#define IMF__MAX_NAME 1024
#define IMF__MAX_HEADER 100000000u /* safetensors header or shard index, as upstream */
#define IMF__MAX_SHARDS 1024

/* ---- Arena: memory freed all at once, with a limit ------------------------------------------ */

struct imf__arena {
    struct imf__arena_block *blocks;
    size_t used, limit; /* bytes handed out; 0 is no limit */
};

/* Zeroed and aligned to 16; NULL when memory or the limit runs out. */
void *imf__arena_alloc(struct imf__arena *a, size_t size);
/* NUL-terminated copy. */
char *imf__arena_string(struct imf__arena *a, const char *s, size_t length);
void imf__arena_free(struct imf__arena *a);

/* ---- Checkpoint ----------------------------------------------------------------------------- */

/* Where a tensor's values are: elements of `item` bytes in a region of one file. */
struct imf__place {
    uint32_t file;
    uint32_t item;                 /* 0: not known, of a type that is never read */
    uint64_t offset, bytes;        /* of the region (a storage, or a tensor's own data) */
    uint64_t start;                /* first element, in elements from the region's start */
    int64_t stride[IMF__MAX_DIMS]; /* in elements, none negative */
    bool contiguous;
    bool negated; /* the values are minus what is stored */
    uint32_t crc; /* CRC-32 of the region, verified when all of it is read; 0: none */
};

struct imf__entry {
    struct imf__tensor tensor; /* first: a tensor pointer is an entry pointer */
    struct imf__place place;
};

struct imf__meta {
    const char *key, *value;
};

struct imf__checkpoint {
    char *path;
    const char *format;
    const char *key;     /* the state dict that was asked for, or NULL; the caller's */
    const char *nesting; /* the keys that were entered ("model"), or "" */
    const char *others;  /* what else could have been, or "" */
    struct imf__file *files;
    uint32_t file_count;
    struct imf__entry *entries;
    size_t count, capacity;
    uint32_t *by_name; /* entry indices sorted by spelling, then by name */
    struct imf__meta *meta;
    size_t meta_count, meta_capacity;
    const char **skipped; /* names of objects beside the weights that were not built */
    size_t skipped_count;
    struct imf__arena arena; /* names, metadata */
    uint8_t *buffer;         /* for values that need converting, IMF__BUFFER bytes */
    XXH3_state_t *hash;
};

#define IMF__BUFFER (256u << 10)

/* Opens one more file of the checkpoint; its index is file_count - 1. */
IMF_MUST_CHECK imf_status imf__checkpoint_add_file(struct imf__checkpoint *c, const char *path,
                                                   struct imf_error *err);
/* One more that is an empty file in memory: its reader writes to fd and counts up size. */
IMF_MUST_CHECK imf_status imf__checkpoint_add_memory(struct imf__checkpoint *c,
                                                     struct imf_error *err);
/* Checks an entry (name, dimensions, that every element lies in the region, region in the file)
 * and appends it. `storage` names the region in messages ("storage 3"); the name is copied. */
IMF_MUST_CHECK imf_status imf__checkpoint_add(struct imf__checkpoint *c,
                                              const struct imf__entry *entry, const char *storage,
                                              struct imf_error *err);
/* "module.name" of an object beside the weights. */
IMF_MUST_CHECK imf_status imf__checkpoint_add_skipped(struct imf__checkpoint *c, const char *module,
                                                      const char *name, struct imf_error *err);
IMF_MUST_CHECK imf_status imf__checkpoint_add_meta(struct imf__checkpoint *c, const char *key,
                                                   const char *value, struct imf_error *err);

/* Adds the tensors of an opened file, whatever its format. */
IMF_MUST_CHECK imf_status imf__checkpoint_read_file(struct imf__checkpoint *c, uint32_t file,
                                                    struct imf_error *err);
IMF_MUST_CHECK imf_status imf__safetensors_read(struct imf__checkpoint *c, uint32_t file,
                                                struct imf_error *err);
IMF_MUST_CHECK imf_status imf__torch_zip_read(struct imf__checkpoint *c, uint32_t file,
                                              struct imf_error *err);
IMF_MUST_CHECK imf_status imf__torch_legacy_read(struct imf__checkpoint *c, uint32_t file,
                                                 struct imf_error *err);
/* `path` is that of the index; files are looked for beside it. */
IMF_MUST_CHECK imf_status imf__shards_open(struct imf__checkpoint *c, const char *path,
                                           struct imf_error *err);
/* Whether a file that begins with these n bytes can be safetensors. */
bool imf__is_safetensors(const uint8_t *head, size_t n, uint64_t file_size);
/* What a file is that holds no weights: "a git-lfs pointer ...". NULL when that is not known. */
const char *imf__foreign_format(const uint8_t *head, size_t n);
/* The weights in a folder; the caller frees. On failure NULL, and `err` says what is there. */
char *imf__weights_in_folder(const char *folder, struct imf_error *err);

#endif

/* Reading weights: torch zip (.pth, .bin), torch legacy pickle, safetensors (single or sharded by
 * an index). A checkpoint is a list of named tensors; their values are read one tensor at a time
 * straight from the file, so no second copy of the weights is ever held. Nothing in a file is
 * executed: the pickle reader knows the few opcodes and globals that a state dict needs, and skips
 * every other object by its name.
 *
 * Threads: a checkpoint is used by one thread at a time.
 *
 * The engine's own, and its tools': a program that serves needs imf.h alone. */
#ifndef IMF__CHECKPOINT_H
#define IMF__CHECKPOINT_H

#include "imf.h"

enum imf__stored_type {
    IMF__STORED_F32,
    IMF__STORED_F16,
    IMF__STORED_BF16,
    IMF__STORED_F64,
    IMF__STORED_OTHER
};

#define IMF__MAX_DIMS 8

struct imf__tensor {
    const char *name;     /* as in the file */
    const char *spelling; /* the same as all files spell it (spellings.h) */
    enum imf__stored_type type;
    int ndim;
    int64_t shape[IMF__MAX_DIMS];
    uint64_t count; /* product of shape, checked not to overflow */
};

/* Whether a model could be made of it. Counters, flags and integers stand beside weights in many
 * files: step, n_averaged, masks. */
static inline bool imf__tensor_is_weight(const struct imf__tensor *t)
{
    return t->type != IMF__STORED_OTHER && t->count > 1;
}

struct imf__checkpoint; /* opaque */

/* Opens and parses the directory of tensors. `path` is a file, a shard index
 * (NAME.safetensors.index.json), or a folder that holds weights under a published name
 * (diffusion_pytorch_model.safetensors, ...). A nesting dict is entered: the one whose last key is
 * `key` ("model_ema", or with those before it: "state.model_ema"); NULL: as torch_state.c tells. On
 * failure `err` names file, tensor and cause. */
IMF_MUST_CHECK imf_status imf__checkpoint_open(struct imf__checkpoint **out, const char *path,
                                               const char *key, struct imf_error *err);
void imf__checkpoint_close(struct imf__checkpoint *c);             /* NULL is fine */
const char *imf__checkpoint_path(const struct imf__checkpoint *c); /* in a folder: of the file */
const char *imf__checkpoint_format(
    const struct imf__checkpoint *c); /* "torch zip", "torch legacy", "safetensors" */
/* The dict that was entered ("model", "ema"), "" when the tensors were at the top. */
const char *imf__checkpoint_nesting(const struct imf__checkpoint *c);
/* The other state dicts, which `key` would have taken: "ema, model_ema1"; "" when there are none.
 */
const char *imf__checkpoint_others(const struct imf__checkpoint *c);
uint64_t imf__checkpoint_bytes(const struct imf__checkpoint *c); /* all its files, on disk */

size_t imf__checkpoint_count(const struct imf__checkpoint *c);
const struct imf__tensor *imf__checkpoint_at(const struct imf__checkpoint *c, size_t i);
/* The i of which imf__checkpoint_at gives t. */
size_t imf__checkpoint_index(const struct imf__checkpoint *c, const struct imf__tensor *t);
/* Under any spelling (spellings.h), the very name first; NULL when missing. */
const struct imf__tensor *imf__checkpoint_find(const struct imf__checkpoint *c, const char *name);
/* Metadata string of a safetensors file ("input_size", ...), or NULL. */
const char *imf__checkpoint_metadata(const struct imf__checkpoint *c, const char *key);
size_t imf__checkpoint_metadata_count(const struct imf__checkpoint *c);
void imf__checkpoint_metadata_at(const struct imf__checkpoint *c, size_t i, const char **key,
                                 const char **value);

/* Classes of objects beside the weights that were not built: "omegaconf.dictconfig.DictConfig". */
size_t imf__checkpoint_skipped_count(const struct imf__checkpoint *c);
const char *imf__checkpoint_skipped_at(const struct imf__checkpoint *c, size_t i);

/* Reads all values as float32 in C order into dst (t->count floats). Fails on a NaN or infinity, on
 * IMF__STORED_OTHER, and on anything truncated. Also feeds the checkpoint's running fingerprint. */
IMF_MUST_CHECK imf_status imf__checkpoint_read(struct imf__checkpoint *c,
                                               const struct imf__tensor *t, float *dst,
                                               struct imf_error *err);
/* Fingerprint (XXH3 128) of names, types, shapes and values read so far, in order. */
void imf__checkpoint_fingerprint(const struct imf__checkpoint *c, uint64_t out[2]);

#endif

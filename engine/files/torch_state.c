/* Which dict of a checkpoint is the state dict, and its tensors.
 *
 * Training scripts save {"model": state_dict, "optimizer": ..., "epoch": 3} and the like. From the
 * root, the first key of `nestings` whose dict holds tensors is entered, again and again. Where no
 * such key is there, the dict itself is taken if it holds tensors, else its only dict that does.
 * "model" comes before "ema", as in the release's loader: a file that holds both says so with
 * `imfd inspect`, which prints what was entered. */
#include "files/torch_state.h"

#include <stdio.h>
#include <string.h>

static const char *const nestings[] = {
    "model",     "state_dict",     "model_state_dict", "module", "params",
    "net",       "network",        "generator",        "ema",    "model_ema",
    "ema_model", "ema_state_dict", "params_ema"};
#define MAX_NESTING 4
/* Items of dicts looked at while searching: a pickle may refer to one dict any number of times. */
#define MAX_LOOKED_AT (1u << 21)

static bool has_tensors(const struct imf__pickle_value *dict)
{
    for (uint32_t i = 0; i + 1 < dict->count; i += 2) {
        if (dict->items[i]->kind == IMF__PICKLE_STRING &&
            dict->items[i + 1]->kind == IMF__PICKLE_TENSOR)
            return true;
    }
    return false;
}

static const struct imf__pickle_value *lookup(const struct imf__pickle_value *dict, const char *key)
{
    for (uint32_t i = 0; i + 1 < dict->count; i += 2) {
        if (imf__pickle_is(dict->items[i], key))
            return dict->items[i + 1];
    }
    return NULL;
}

/* The state dict in or below `v`, NULL when there is none; *key is the last key on the way. */
static const struct imf__pickle_value *find_state(const struct imf__pickle_value *v, int depth,
                                                  uint64_t *looked_at, const char **key)
{
    if (v->kind != IMF__PICKLE_DICT || depth > MAX_NESTING)
        return NULL;
    *looked_at += v->count + 1;
    if (*looked_at > MAX_LOOKED_AT)
        return NULL;
    const struct imf__pickle_value *found;
    for (size_t i = 0; i < sizeof(nestings) / sizeof(nestings[0]); i++) {
        const struct imf__pickle_value *inner = lookup(v, nestings[i]);
        const char *inner_key = nestings[i];
        if (inner && (found = find_state(inner, depth + 1, looked_at, &inner_key))) {
            *key = inner_key;
            return found;
        }
    }
    if (has_tensors(v))
        return v;
    const struct imf__pickle_value *only = NULL;
    for (uint32_t i = 0; i + 1 < v->count; i += 2) {
        if (v->items[i]->kind != IMF__PICKLE_STRING || v->items[i + 1]->kind != IMF__PICKLE_DICT)
            continue;
        const char *inner_key = v->items[i]->text;
        found = find_state(v->items[i + 1], depth + 1, looked_at, &inner_key);
        if (found && only && found != only)
            return NULL; /* which one was meant is anyone's guess */
        if (found) {
            only = found;
            *key = inner_key;
        }
    }
    return only;
}

static imf_status add_tensor(struct imf__checkpoint *c, const struct imf__pickle_value *name,
                             const struct imf__pickle_tensor *t,
                             const struct imf__storage_source *source, struct imf_error *err)
{
    const char *file = c->files[0].label;
    struct imf__quoted quoted = imf__quote(name->text);
    if (strlen(name->text) != name->length)
        return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\": its name holds a NUL", file,
                         quoted.text);
    struct imf__entry e = {.tensor = {.name = name->text, .type = t->type, .ndim = t->ndim},
                           .place = {.file = 0, .item = t->item}};
    memcpy(e.tensor.shape, t->shape, sizeof(t->shape));
    memcpy(e.place.stride, t->stride, sizeof(t->stride));
    char storage[128];
    snprintf(storage, sizeof(storage), "storage %s", imf__quote(t->storage->key).text);
    struct imf_error why = {0};
    struct imf__region region = {0};
    imf_status status = source->find(source->user, t->storage, &region, &why);
    if (status != IMF_OK)
        return imf__fail(err, status, "%s: tensor \"%s\": %s %.128s", file, quoted.text, storage,
                         why.message);
    e.place.offset = region.offset;
    e.place.bytes = region.bytes;
    /* A checksum is of the whole storage. */
    e.place.crc = t->storage->view_offset ? 0 : region.crc;
    /* A view starts inside its storage. */
    uint64_t skip;
    if (!imf__mul(&skip, t->storage->view_offset, t->storage->item) || skip > e.place.bytes)
        return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\": its view starts behind %s", file,
                         quoted.text, storage);
    e.place.offset += skip;
    e.place.bytes -= skip;
    e.place.start = t->offset;
    return imf__checkpoint_add(c, &e, storage, err);
}

imf_status imf__torch_state_add(struct imf__checkpoint *c, const struct imf__pickle_value *root,
                                const struct imf__storage_source *source, struct imf_error *err)
{
    uint64_t looked_at = 0;
    const char *key = "";
    const struct imf__pickle_value *state = find_state(root, 0, &looked_at, &key);
    if (!state)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: holds no state dict (a dict of tensors, at the top or under "
                         "\"model\", \"state_dict\", \"ema\", ...)",
                         c->files[0].label);
    c->nesting = imf__arena_string(&c->arena, key, strlen(key));
    if (!c->nesting)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", c->files[0].label);
    for (uint32_t i = 0; i + 1 < state->count; i += 2) {
        if (state->items[i]->kind != IMF__PICKLE_STRING ||
            state->items[i + 1]->kind != IMF__PICKLE_TENSOR)
            continue;
        imf_status status =
            add_tensor(c, state->items[i], state->items[i + 1]->tensor, source, err);
        if (status != IMF_OK)
            return status;
    }
    return IMF_OK;
}

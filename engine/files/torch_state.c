/* Which dict of a checkpoint is the state dict, and its tensors.
 *
 * Training scripts save {"model": state_dict, "optimizer": ..., "epoch": 3} and the like. From the
 * root, the first key of `nestings` whose dict holds tensors is entered, again and again. Where no
 * such key is there, the dict itself is taken if it holds tensors, else its only dict that does.
 * "model" comes before "ema", as in the release's loader: a file that holds both says so with
 * `imfd inspect`, which prints what was entered and what else there is; whoever opens the file may
 * name another one. */
#include "files/torch_state.h"

#include <stdio.h>
#include <string.h>

static const char *const nestings[] = {
    "model",     "state_dict",     "model_state_dict", "module", "params",
    "net",       "network",        "generator",        "ema",    "model_ema",
    "ema_model", "ema_state_dict", "params_ema"};
#define NESTINGS (sizeof(nestings) / sizeof(nestings[0]))
#define MAX_NESTING 4
/* Items of dicts looked at while searching: a pickle may refer to one dict any number of times. */
#define MAX_LOOKED_AT (1u << 21)
/* State dicts told of; a file has a handful. */
#define MAX_STATES 32

struct state {
    const struct imf__pickle_value *dict;
    const char *keys[MAX_NESTING]; /* from the root on */
    int depth;
    bool guessed; /* another one might have been meant as well */
};

/* The state dicts of a file, the one to be taken first. */
struct states {
    struct state found[MAX_STATES];
    int count;
    uint64_t looked_at;
};

static bool has_tensors(const struct imf__pickle_value *dict)
{
    for (uint32_t i = 0; i + 1 < dict->count; i += 2) {
        if (dict->items[i]->kind == IMF__PICKLE_STRING &&
            dict->items[i + 1]->kind == IMF__PICKLE_TENSOR)
            return true;
    }
    return false;
}

static bool is_nesting(const struct imf__pickle_value *key)
{
    for (size_t i = 0; i < NESTINGS; i++) {
        if (imf__pickle_is(key, nestings[i]))
            return true;
    }
    return false;
}

static void find_states(struct states *s, const struct imf__pickle_value *v, struct state at);

/* The state dicts under `name`; under every key that is no nesting where it is NULL. */
static void find_under(struct states *s, const struct imf__pickle_value *v, struct state at,
                       const char *name)
{
    if (at.depth == MAX_NESTING)
        return;
    for (uint32_t i = 0; i + 1 < v->count; i += 2) {
        const struct imf__pickle_value *key = v->items[i];
        if (v->items[i + 1]->kind != IMF__PICKLE_DICT || key->kind != IMF__PICKLE_STRING ||
            (name ? !imf__pickle_is(key, name) : is_nesting(key)))
            continue;
        struct state inner = at;
        inner.keys[inner.depth++] = key->text;
        find_states(s, v->items[i + 1], inner);
    }
}

static void add_state(struct states *s, struct state state)
{
    for (int i = 0; i < s->count; i++) {
        if (s->found[i].dict == state.dict)
            return;
    }
    if (s->count < MAX_STATES)
        s->found[s->count++] = state;
}

static void find_states(struct states *s, const struct imf__pickle_value *v, struct state at)
{
    s->looked_at += v->count + 1;
    if (s->looked_at > MAX_LOOKED_AT)
        return;
    int before = s->count;
    for (size_t i = 0; i < NESTINGS; i++)
        find_under(s, v, at, nestings[i]);
    at.dict = v;
    if (s->count == before && has_tensors(v))
        add_state(s, at);
    bool decided = s->count > before;
    find_under(s, v, at, NULL);
    if (!decided && s->count > before + 1)
        s->found[before].guessed = true;
}

/* "state.model_ema"; "" for the root. */
static void join(char text[128], const struct state *state)
{
    int n = 0;
    text[0] = '\0';
    for (int i = 0; i < state->depth && n < 128; i++)
        n += snprintf(text + n, 128 - (size_t)n, "%s%.60s", i ? "." : "", state->keys[i]);
}

/* The list of all states but one, "ema, model_ema1". */
static void list(char *text, size_t size, const struct states *s, int but)
{
    size_t n = 0;
    text[0] = '\0';
    for (int i = 0; i < s->count && n < size; i++) {
        char name[128];
        join(name, &s->found[i]);
        if (i != but)
            n += (size_t)snprintf(text + n, size - n, "%s%s", n ? ", " : "",
                                  name[0] ? imf__quote(name).text : "(the top)");
    }
}

static bool is_called(const struct state *state, const char *key)
{
    char name[128];
    join(name, state);
    return state->depth > 0 &&
           (strcmp(name, key) == 0 || strcmp(state->keys[state->depth - 1], key) == 0);
}

static imf_status choose(int *out, const struct imf__checkpoint *c, const struct states *s,
                         struct imf_error *err)
{
    const char *file = c->files[0].label;
    char all[200];
    int called = 0;
    list(all, sizeof(all), s, -1);
    *out = 0;
    for (int i = 0; c->key && i < s->count; i++) {
        if (is_called(&s->found[i], c->key)) {
            *out = i;
            called++;
        }
    }
    if (c->key && called != 1)
        return imf__fail(err, IMF_EFORMAT, "%s: holds %s state dict \"%s\"; there are: %s", file,
                         called ? "more than one" : "no", imf__quote(c->key).text, all);
    if (!c->key && s->found[0].guessed)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: holds several state dicts, and none is called \"model\": name one of "
                         "%s (--checkpoint-key, or key= in the settings)",
                         file, all);
    return IMF_OK;
}

static imf_status add_tensor(struct imf__checkpoint *c, const struct imf__pickle_value *name,
                             const struct imf__pickle_tensor *t,
                             const struct imf__storage_source *source, struct imf_error *err)
{
    const char *file = c->files[source->file].label;
    struct imf__quoted quoted = imf__quote(name->text);
    if (strlen(name->text) != name->length)
        return imf__fail(err, IMF_EFORMAT, "%s: tensor \"%s\": its name holds a NUL", file,
                         quoted.text);
    struct imf__entry e = {.tensor = {.name = name->text, .type = t->type, .ndim = t->ndim},
                           .place = {.item = t->item}};
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
    e.place.file = region.file;
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
    e.place.negated = t->negated;
    return imf__checkpoint_add(c, &e, storage, err);
}

/* The first object in `v` that was not built: a whole model, perhaps. */
static const struct imf__pickle_global *first_opaque(const struct imf__pickle_value *v)
{
    if (v->kind == IMF__PICKLE_OPAQUE)
        return v->global;
    bool holds =
        v->kind == IMF__PICKLE_DICT || v->kind == IMF__PICKLE_LIST || v->kind == IMF__PICKLE_TUPLE;
    for (uint32_t i = 0; holds && i < v->count; i++) {
        if (v->items[i]->kind == IMF__PICKLE_OPAQUE && v->items[i]->global)
            return v->items[i]->global;
    }
    return NULL;
}

static imf_status no_state(const char *file, const struct imf__pickle_value *root,
                           struct imf_error *err)
{
    const struct imf__pickle_global *object = first_opaque(root);
    char class[192] = "";
    if (object)
        snprintf(class, sizeof(class), ", but an object of \"%.60s.%.60s\", which is not built",
                 imf__quote(object->module).text, imf__quote(object->name).text);
    return imf__fail(err, IMF_EFORMAT,
                     "%s: holds no state dict (a dict of tensors, at the top or under \"model\", "
                     "\"state_dict\", \"ema\", ...)%s",
                     file, class);
}

imf_status imf__torch_state_add(struct imf__checkpoint *c, const struct imf__pickle *pickle,
                                const struct imf__storage_source *source, struct imf_error *err)
{
    struct states s = {.count = 0};
    int chosen = 0;
    char text[200];
    if (pickle->root->kind == IMF__PICKLE_DICT)
        find_states(&s, pickle->root, (struct state){.depth = 0});
    if (s.count == 0)
        return no_state(c->files[source->file].label, pickle->root, err);
    IMF_TRY(choose(&chosen, c, &s, err));
    for (const struct imf__pickle_global *g = pickle->unknown; g; g = g->next)
        IMF_TRY(imf__checkpoint_add_skipped(c, g->module, g->name, err));
    const struct imf__pickle_value *state = s.found[chosen].dict;
    join(text, &s.found[chosen]);
    c->nesting = imf__arena_string(&c->arena, text, strlen(text));
    list(text, sizeof(text), &s, chosen);
    c->others = imf__arena_string(&c->arena, text, strlen(text));
    if (!c->nesting || !c->others)
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

/* Globals of pickles: the table, and the values they stand for. */
#include "files/pickle_globals.h"

#include <string.h>

#define STORAGE(name, type, item)                                                                  \
    {                                                                                              \
        "torch", name, IMF__GLOBAL_STORAGE, IMF__STORED_##type, item, NULL                         \
    }
#define DTYPE(name, type, item)                                                                    \
    {                                                                                              \
        "torch", name, IMF__GLOBAL_DTYPE, IMF__STORED_##type, item, NULL                           \
    }
#define CALL(module, name, kind)                                                                   \
    {                                                                                              \
        module, name, IMF__GLOBAL_##kind, IMF__STORED_OTHER, 0, NULL                               \
    }

static const struct imf__pickle_global globals[] = {
    CALL("collections", "OrderedDict", DICT),
    CALL("collections", "defaultdict", DICT),
    CALL("torch._utils", "_rebuild_tensor", REBUILD_TENSOR),
    CALL("torch._utils", "_rebuild_tensor_v2", REBUILD_TENSOR),
    CALL("torch._utils", "_rebuild_tensor_v3", REBUILD_TYPED),
    CALL("torch._utils", "_rebuild_qtensor", REBUILD_QUANT),
    CALL("torch._utils", "_rebuild_parameter", WRAPPED),
    CALL("torch._utils", "_rebuild_parameter_with_state", WRAPPED),
    CALL("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", WRAPPED),
    CALL("torch._tensor", "_rebuild_from_type_v2", FROM_TYPE),
    STORAGE("FloatStorage", F32, 4),
    STORAGE("HalfStorage", F16, 2),
    STORAGE("BFloat16Storage", BF16, 2),
    STORAGE("DoubleStorage", F64, 8),
    STORAGE("LongStorage", OTHER, 8),
    STORAGE("IntStorage", OTHER, 4),
    STORAGE("ShortStorage", OTHER, 2),
    STORAGE("CharStorage", OTHER, 1),
    STORAGE("ByteStorage", OTHER, 1),
    STORAGE("BoolStorage", OTHER, 1),
    STORAGE("ComplexFloatStorage", OTHER, 8),
    STORAGE("ComplexDoubleStorage", OTHER, 16),
    STORAGE("QInt8Storage", OTHER, 1),
    STORAGE("QUInt8Storage", OTHER, 1),
    STORAGE("QInt32Storage", OTHER, 4),
    STORAGE("QUInt4x2Storage", OTHER, 1),
    STORAGE("QUInt2x4Storage", OTHER, 1),
    STORAGE("UntypedStorage", OTHER, 1),
    {"torch.storage", "UntypedStorage", IMF__GLOBAL_STORAGE, IMF__STORED_OTHER, 1, NULL},
    {"torch.storage", "TypedStorage", IMF__GLOBAL_STORAGE, IMF__STORED_OTHER, 1, NULL},
    DTYPE("float32", F32, 4),
    DTYPE("float16", F16, 2),
    DTYPE("bfloat16", BF16, 2),
    DTYPE("float64", F64, 8),
};

const struct imf__pickle_global *imf__pickle_global_find(const char *module, const char *name)
{
    /* Before torch 0.4 storages of a GPU had classes of their own. */
    if (strcmp(module, "torch.cuda") == 0)
        module = "torch";
    for (size_t i = 0; i < sizeof(globals) / sizeof(globals[0]); i++) {
        if (strcmp(globals[i].module, module) == 0 && strcmp(globals[i].name, name) == 0)
            return &globals[i];
    }
    return NULL;
}

/* Nothing here would ever run them; but who finds such a name in a file of weights wants to know,
 * since the next reader may be Python. */
bool imf__pickle_global_attacks(const char *module, const char *name)
{
    static const char *const modules[] = {"os",     "posix",  "nt",        "sys",      "subprocess",
                                          "pty",    "socket", "runpy",     "commands", "shutil",
                                          "ctypes", "code",   "webbrowser"};
    static const char *const functions[] = {"eval",       "exec", "execfile", "compile",
                                            "__import__", "open", "apply",    "input"};
    for (size_t i = 0; i < sizeof(modules) / sizeof(modules[0]); i++) {
        size_t n = strlen(modules[i]);
        if (strncmp(module, modules[i], n) == 0 && (module[n] == '\0' || module[n] == '.'))
            return true;
    }
    if (strcmp(module, "builtins") != 0 && strcmp(module, "__builtin__") != 0)
        return false;
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        if (strcmp(name, functions[i]) == 0)
            return true;
    }
    return false;
}

bool imf__pickle_global_is_quiet(const char *module, const char *name)
{
    static const char *const quiet[][2] = {
        {"torch", "Size"},
        {"torch", "device"},
        {"torch", "Tensor"},
        {"torch.nn.parameter", "Parameter"},
        {"torch.nn.parameter", "Buffer"},
        {"_codecs", "encode"},
    };
    for (size_t i = 0; i < sizeof(quiet) / sizeof(quiet[0]); i++) {
        if (strcmp(quiet[i][0], module) == 0 && strcmp(quiet[i][1], name) == 0)
            return true;
    }
    return false;
}

/* ---- Building values ------------------------------------------------------------------------- */

static const char no_memory[] = "more memory needed than the limit";

struct imf__pickle_value *imf__pickle_new(struct imf__arena *arena, enum imf__pickle_kind kind)
{
    struct imf__pickle_value *v = imf__arena_alloc(arena, sizeof(*v));
    if (v)
        v->kind = kind;
    return v;
}

bool imf__pickle_append(struct imf__arena *arena, struct imf__pickle_value *to,
                        struct imf__pickle_value *item)
{
    if (to->count == to->capacity) {
        if (to->capacity > UINT32_MAX / 2)
            return false;
        uint32_t capacity = to->capacity ? 2 * to->capacity : 8;
        struct imf__pickle_value **items =
            imf__arena_alloc(arena, capacity * sizeof(struct imf__pickle_value *));
        if (!items)
            return false;
        if (to->count)
            memcpy(items, to->items, to->count * sizeof(struct imf__pickle_value *));
        to->items = items;
        to->capacity = capacity;
    }
    to->items[to->count++] = item;
    return true;
}

/* What `global` would have made, and is not. */
static struct imf__pickle_value *
opaque(struct imf__arena *arena, const struct imf__pickle_global *global, const char **reason)
{
    struct imf__pickle_value *v = imf__pickle_new(arena, IMF__PICKLE_OPAQUE);
    if (v)
        v->global = global;
    else
        *reason = no_memory;
    return v;
}

static struct imf__pickle_value *refuse(const char **reason, const char *why)
{
    *reason = why;
    return NULL;
}

static bool natural(const struct imf__pickle_value *v, uint64_t *out)
{
    if (v->kind != IMF__PICKLE_INT || v->integer < 0)
        return false;
    *out = (uint64_t)v->integer;
    return true;
}

static const struct imf__pickle_global *global_of(const struct imf__pickle_value *v,
                                                  enum imf__global_kind kind)
{
    return v->kind == IMF__PICKLE_GLOBAL && v->global->kind == (int)kind ? v->global : NULL;
}

struct imf__pickle_value *imf__pickle_storage(struct imf__arena *arena,
                                              const struct imf__pickle_value *id,
                                              const char **reason)
{
    if (id->kind != IMF__PICKLE_TUPLE || id->count < 5 || id->count > 6 ||
        !imf__pickle_is(id->items[0], "storage"))
        return refuse(reason, "a persistent id that is no storage");
    const struct imf__pickle_global *class = global_of(id->items[1], IMF__GLOBAL_STORAGE);
    const struct imf__pickle_value *key = id->items[2];
    if (!class && !global_of(id->items[1], IMF__GLOBAL_UNKNOWN))
        return refuse(reason, "a storage without a class");
    if (key->kind != IMF__PICKLE_STRING || key->length != strlen(key->text) || key->length > 64)
        return refuse(reason, "a storage without a proper key");
    struct imf__pickle_storage *s = imf__arena_alloc(arena, sizeof(*s));
    struct imf__pickle_value *v = imf__pickle_new(arena, IMF__PICKLE_STORAGE);
    if (!s || !v)
        return refuse(reason, no_memory);
    s->type = class ? class->type : IMF__STORED_OTHER;
    s->item = class ? class->item : 0;
    s->key = key->text;
    if (!natural(id->items[4], &s->count))
        return refuse(reason, "a storage without a proper size");
    if (id->count == 6 && id->items[5]->kind != IMF__PICKLE_NONE) {
        /* Before torch 0.4: (key of the view, offset, size) into the storage. */
        const struct imf__pickle_value *view = id->items[5];
        if (view->kind != IMF__PICKLE_TUPLE || view->count != 3 ||
            !natural(view->items[1], &s->view_offset) || !natural(view->items[2], &s->count))
            return refuse(reason, "a storage with a bad view");
    }
    v->storage = s;
    return v;
}

/* A tuple (or list) of up to IMF__MAX_DIMS sizes. */
static bool sizes(const struct imf__pickle_value *v, int64_t *out)
{
    for (uint32_t i = 0; i < v->count; i++) {
        uint64_t n;
        if (!natural(v->items[i], &n))
            return false;
        out[i] = (int64_t)n;
    }
    return true;
}

static bool is_sequence(const struct imf__pickle_value *v)
{
    return v->kind == IMF__PICKLE_TUPLE || v->kind == IMF__PICKLE_LIST;
}

/* {"neg": True} behind the other arguments: the storage belongs to the tensor's negative. (The
 * other bit, "conj", only complex tensors have.) */
static bool is_negated(const struct imf__pickle_value *args, uint32_t at)
{
    const struct imf__pickle_value *d = args->count > at ? args->items[at] : NULL;
    for (uint32_t i = 0; d && d->kind == IMF__PICKLE_DICT && i + 1 < d->count; i += 2) {
        if (imf__pickle_is(d->items[i], "neg"))
            return d->items[i + 1]->kind == IMF__PICKLE_BOOL && d->items[i + 1]->integer;
    }
    return false;
}

static struct imf__pickle_value *rebuild_tensor(struct imf__arena *arena,
                                                const struct imf__pickle_global *global,
                                                const struct imf__pickle_value *args,
                                                const char **reason)
{
    bool typed = global->kind == IMF__GLOBAL_REBUILD_TYPED;
    if (args->count < (typed ? 7 : 4) || args->items[0]->kind != IMF__PICKLE_STORAGE)
        return refuse(reason, "a tensor without a storage");
    const struct imf__pickle_value *shape = args->items[2], *stride = args->items[3];
    if (is_sequence(shape) && shape->count > IMF__MAX_DIMS)
        return opaque(arena, global, reason);
    struct imf__pickle_tensor *t = imf__arena_alloc(arena, sizeof(*t));
    struct imf__pickle_value *v = imf__pickle_new(arena, IMF__PICKLE_TENSOR);
    if (!t || !v)
        return refuse(reason, no_memory);
    t->storage = args->items[0]->storage;
    t->type = t->storage->type;
    t->item = t->storage->item;
    if (typed) {
        const struct imf__pickle_global *dtype = global_of(args->items[6], IMF__GLOBAL_DTYPE);
        if (!dtype && !global_of(args->items[6], IMF__GLOBAL_UNKNOWN))
            return refuse(reason, "a tensor of no dtype");
        t->type = dtype ? dtype->type : IMF__STORED_OTHER;
        t->item = dtype ? dtype->item : 0;
    }
    if (global->kind == IMF__GLOBAL_REBUILD_QUANT) {
        t->type = IMF__STORED_OTHER; /* some pack several elements into a byte */
        t->item = 0;
    }
    t->negated = global->kind != IMF__GLOBAL_REBUILD_QUANT && is_negated(args, typed ? 7 : 6);
    if (!natural(args->items[1], &t->offset))
        return refuse(reason, "a tensor with a bad storage offset");
    if (!is_sequence(shape) || !is_sequence(stride) || shape->count != stride->count ||
        !sizes(shape, t->shape) || !sizes(stride, t->stride))
        return refuse(reason, "a tensor with a bad shape or strides");
    t->ndim = (int)shape->count;
    v->tensor = t;
    return v;
}

/* OrderedDict() and defaultdict(factory) are empty; Python 2 wrote OrderedDict([[k, v], ...]). */
static struct imf__pickle_value *dict(struct imf__arena *arena,
                                      const struct imf__pickle_value *args, const char **reason)
{
    struct imf__pickle_value *d = imf__pickle_new(arena, IMF__PICKLE_DICT);
    if (!d)
        return refuse(reason, no_memory);
    const struct imf__pickle_value *pairs = args->count == 1 ? args->items[0] : NULL;
    if (!pairs || pairs->kind != IMF__PICKLE_LIST)
        return d;
    for (uint32_t i = 0; i < pairs->count; i++) {
        const struct imf__pickle_value *pair = pairs->items[i];
        if ((pair->kind != IMF__PICKLE_LIST && pair->kind != IMF__PICKLE_TUPLE) || pair->count != 2)
            return refuse(reason, "a dict of something that is no pair");
        if (!imf__pickle_append(arena, d, pair->items[0]) ||
            !imf__pickle_append(arena, d, pair->items[1]))
            return refuse(reason, no_memory);
    }
    return d;
}

struct imf__pickle_value *imf__pickle_call(struct imf__arena *arena,
                                           const struct imf__pickle_global *global,
                                           const struct imf__pickle_value *args,
                                           const char **reason)
{
    if (args->kind != IMF__PICKLE_TUPLE)
        return refuse(reason, "a call without an argument tuple");
    switch ((enum imf__global_kind)global->kind) {
    case IMF__GLOBAL_DICT:
        return dict(arena, args, reason);
    case IMF__GLOBAL_UNKNOWN:
        return opaque(arena, global, reason);
    case IMF__GLOBAL_REBUILD_TENSOR:
    case IMF__GLOBAL_REBUILD_TYPED:
    case IMF__GLOBAL_REBUILD_QUANT:
        return rebuild_tensor(arena, global, args, reason);
    case IMF__GLOBAL_WRAPPED:
        if (args->count < 1 || (args->items[0]->kind != IMF__PICKLE_TENSOR &&
                                args->items[0]->kind != IMF__PICKLE_OPAQUE))
            return refuse(reason, "a parameter without a tensor");
        return args->items[0];
    case IMF__GLOBAL_FROM_TYPE:
        if (args->count < 3 || args->items[0]->kind != IMF__PICKLE_GLOBAL ||
            args->items[0]->global->kind == IMF__GLOBAL_FROM_TYPE)
            return refuse(reason, "a tensor of unknown type");
        return imf__pickle_call(arena, args->items[0]->global, args->items[2], reason);
    case IMF__GLOBAL_STORAGE:
    case IMF__GLOBAL_DTYPE:
        break;
    }
    return refuse(reason, "a call of a storage class or dtype");
}

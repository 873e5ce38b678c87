/* Globals of pickles: the table, and the values they stand for. */
#include "files/pickle_globals.h"

#include <string.h>

#define STORAGE(name, type, item)                                                                  \
    {                                                                                              \
        "torch", name, IMF__GLOBAL_STORAGE, IMF__STORED_##type, item                               \
    }
#define DTYPE(name, type, item)                                                                    \
    {                                                                                              \
        "torch", name, IMF__GLOBAL_DTYPE, IMF__STORED_##type, item                                 \
    }
#define DATA(module, name)                                                                         \
    {                                                                                              \
        module, name, IMF__GLOBAL_DATA, IMF__STORED_OTHER, 0                                       \
    }

static const struct imf__pickle_global globals[] = {
    {"collections", "OrderedDict", IMF__GLOBAL_DICT, IMF__STORED_OTHER, 0},
    {"collections", "defaultdict", IMF__GLOBAL_DICT, IMF__STORED_OTHER, 0},
    {"torch._utils", "_rebuild_tensor", IMF__GLOBAL_REBUILD_TENSOR, IMF__STORED_OTHER, 0},
    {"torch._utils", "_rebuild_tensor_v2", IMF__GLOBAL_REBUILD_TENSOR, IMF__STORED_OTHER, 0},
    {"torch._utils", "_rebuild_tensor_v3", IMF__GLOBAL_REBUILD_TYPED, IMF__STORED_OTHER, 0},
    {"torch._utils", "_rebuild_parameter", IMF__GLOBAL_PARAMETER, IMF__STORED_OTHER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", IMF__GLOBAL_PARAMETER, IMF__STORED_OTHER, 0},
    {"torch._tensor", "_rebuild_from_type_v2", IMF__GLOBAL_FROM_TYPE, IMF__STORED_OTHER, 0},
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
    STORAGE("UntypedStorage", OTHER, 1),
    {"torch.storage", "UntypedStorage", IMF__GLOBAL_STORAGE, IMF__STORED_OTHER, 1},
    {"torch.storage", "TypedStorage", IMF__GLOBAL_STORAGE, IMF__STORED_OTHER, 1},
    DTYPE("float32", F32, 4),
    DTYPE("float16", F16, 2),
    DTYPE("bfloat16", BF16, 2),
    DTYPE("float64", F64, 8),
    DTYPE("int64", OTHER, 8),
    DTYPE("int32", OTHER, 4),
    DTYPE("int16", OTHER, 2),
    DTYPE("int8", OTHER, 1),
    DTYPE("uint8", OTHER, 1),
    DTYPE("uint16", OTHER, 2),
    DTYPE("uint32", OTHER, 4),
    DTYPE("uint64", OTHER, 8),
    DTYPE("bool", OTHER, 1),
    DTYPE("complex64", OTHER, 8),
    DTYPE("float8_e4m3fn", OTHER, 1),
    DTYPE("float8_e5m2", OTHER, 1),
    DTYPE("float8_e4m3fnuz", OTHER, 1),
    DTYPE("float8_e5m2fnuz", OTHER, 1),
    DTYPE("float8_e8m0fnu", OTHER, 1),
    /* What training scripts keep beside the weights: arguments, counters, sizes, numpy scalars. */
    DATA("torch", "Size"),
    DATA("torch", "device"),
    DATA("torch", "Tensor"),
    DATA("torch.nn.parameter", "Parameter"),
    DATA("argparse", "Namespace"),
    DATA("collections", "Counter"),
    DATA("builtins", "set"),
    DATA("builtins", "dict"),
    DATA("builtins", "list"),
    DATA("builtins", "int"),
    DATA("builtins", "float"),
    DATA("__builtin__", "set"),
    DATA("__builtin__", "dict"),
    DATA("__builtin__", "list"),
    DATA("__builtin__", "int"),
    DATA("__builtin__", "float"),
    DATA("_codecs", "encode"),
    DATA("pathlib", "PosixPath"),
    DATA("numpy", "dtype"),
    DATA("numpy", "ndarray"),
    DATA("numpy.core.multiarray", "scalar"),
    DATA("numpy.core.multiarray", "_reconstruct"),
    DATA("numpy._core.multiarray", "scalar"),
    DATA("numpy._core.multiarray", "_reconstruct"),
};

const struct imf__pickle_global *imf__pickle_global_find(const char *module, const char *name)
{
    for (size_t i = 0; i < sizeof(globals) / sizeof(globals[0]); i++) {
        if (strcmp(globals[i].module, module) == 0 && strcmp(globals[i].name, name) == 0)
            return &globals[i];
    }
    return NULL;
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
    return v->kind == IMF__PICKLE_GLOBAL && v->global->kind == kind ? v->global : NULL;
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
    if (!class)
        return refuse(reason, "a storage of unknown class");
    if (key->kind != IMF__PICKLE_STRING || key->length != strlen(key->text) || key->length > 64)
        return refuse(reason, "a storage without a proper key");
    struct imf__pickle_storage *s = imf__arena_alloc(arena, sizeof(*s));
    struct imf__pickle_value *v = imf__pickle_new(arena, IMF__PICKLE_STORAGE);
    if (!s || !v)
        return refuse(reason, no_memory);
    s->type = class->type;
    s->item = class->item;
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

/* A tuple (or list) of up to IMF__MAX_DIMS sizes; their number, or -1. */
static int sizes(const struct imf__pickle_value *v, int64_t *out)
{
    if ((v->kind != IMF__PICKLE_TUPLE && v->kind != IMF__PICKLE_LIST) || v->count > IMF__MAX_DIMS)
        return -1;
    for (uint32_t i = 0; i < v->count; i++) {
        uint64_t n;
        if (!natural(v->items[i], &n))
            return -1;
        out[i] = (int64_t)n;
    }
    return (int)v->count;
}

static struct imf__pickle_value *rebuild_tensor(struct imf__arena *arena, bool typed,
                                                const struct imf__pickle_value *args,
                                                const char **reason)
{
    if (args->count < (typed ? 7 : 4) || args->items[0]->kind != IMF__PICKLE_STORAGE)
        return refuse(reason, "a tensor without a storage");
    struct imf__pickle_tensor *t = imf__arena_alloc(arena, sizeof(*t));
    struct imf__pickle_value *v = imf__pickle_new(arena, IMF__PICKLE_TENSOR);
    if (!t || !v)
        return refuse(reason, no_memory);
    t->storage = args->items[0]->storage;
    t->type = t->storage->type;
    t->item = t->storage->item;
    if (typed) {
        const struct imf__pickle_global *dtype = global_of(args->items[6], IMF__GLOBAL_DTYPE);
        if (!dtype)
            return refuse(reason, "a tensor of unknown dtype");
        t->type = dtype->type;
        t->item = dtype->item;
    }
    if (!natural(args->items[1], &t->offset))
        return refuse(reason, "a tensor with a bad storage offset");
    t->ndim = sizes(args->items[2], t->shape);
    if (t->ndim < 0 || sizes(args->items[3], t->stride) != t->ndim)
        return refuse(reason, "a tensor with a bad shape or strides, or of more than 8 dimensions");
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
    struct imf__pickle_value *v;
    if (args->kind != IMF__PICKLE_TUPLE)
        return refuse(reason, "a call without an argument tuple");
    switch (global->kind) {
    case IMF__GLOBAL_DICT:
        return dict(arena, args, reason);
    case IMF__GLOBAL_DATA:
        v = imf__pickle_new(arena, IMF__PICKLE_OPAQUE);
        return v ? v : refuse(reason, no_memory);
    case IMF__GLOBAL_REBUILD_TENSOR:
        return rebuild_tensor(arena, false, args, reason);
    case IMF__GLOBAL_REBUILD_TYPED:
        return rebuild_tensor(arena, true, args, reason);
    case IMF__GLOBAL_PARAMETER:
        if (args->count < 1 || args->items[0]->kind != IMF__PICKLE_TENSOR)
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

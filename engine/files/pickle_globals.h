/* The closed table of globals that mean something here, and what "calling" each one builds. Between
 * pickle.c and pickle_globals.c only. */
#ifndef IMF__PICKLE_GLOBALS_H
#define IMF__PICKLE_GLOBALS_H

#include "files/pickle.h"

enum imf__global_kind {
    IMF__GLOBAL_DICT,           /* an empty dict, or one of the given pairs */
    IMF__GLOBAL_UNKNOWN,        /* in no table: an opaque object, whatever the arguments */
    IMF__GLOBAL_REBUILD_TENSOR, /* (storage, offset, size, stride, ...) */
    IMF__GLOBAL_REBUILD_TYPED,  /* the same, with a dtype as argument 6 */
    IMF__GLOBAL_REBUILD_QUANT,  /* the same, of a type that is never read */
    IMF__GLOBAL_WRAPPED,        /* (tensor, ...): the tensor */
    IMF__GLOBAL_FROM_TYPE,      /* (rebuild global, type, arguments, state) */
    IMF__GLOBAL_STORAGE,        /* a storage class: never called, named by persistent ids */
    IMF__GLOBAL_DTYPE           /* torch.float32, ...: never called */
};

/* NULL when it is in no table. */
const struct imf__pickle_global *imf__pickle_global_find(const char *module, const char *name);
/* Whether only a pickle that attacks its reader would name it. */
bool imf__pickle_global_attacks(const char *module, const char *name);
/* Whether an unknown one is so common that nobody wants to be told of it. */
bool imf__pickle_global_is_quiet(const char *module, const char *name);
/* The result of global(*args); NULL and a reason when the arguments do not fit. */
struct imf__pickle_value *imf__pickle_call(struct imf__arena *arena,
                                           const struct imf__pickle_global *global,
                                           const struct imf__pickle_value *args,
                                           const char **reason);
/* The storage that a persistent id ("storage", class, key, location, count[, view]) names. */
struct imf__pickle_value *imf__pickle_storage(struct imf__arena *arena,
                                              const struct imf__pickle_value *id,
                                              const char **reason);
struct imf__pickle_value *imf__pickle_new(struct imf__arena *arena, enum imf__pickle_kind kind);
/* Appends to a list, tuple or dict; false when the arena is full. */
bool imf__pickle_append(struct imf__arena *arena, struct imf__pickle_value *to,
                        struct imf__pickle_value *item);

#endif

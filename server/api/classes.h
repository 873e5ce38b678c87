/* The names of a model's classes (as a rule the 1000 of ImageNet), and how a request names one.
 *
 * A class is named by its index, its WordNet id ("n02099601") or any synonym ("golden retriever").
 * Case is ignored, and '_', '-' and runs of blanks count as one blank. Read-only after
 * creation, so any thread may look things up. */
#ifndef CLASSES_H
#define CLASSES_H

#include <stdbool.h>
#include <stddef.h>

enum {
    CLASSES_IMAGENET = 1000,
    CLASSES_MAX_CANDIDATES = 8,
    CLASSES_MAX_QUERY = 200, /* longer names cannot match and are refused as unknown */
};

struct class_info {
    const char *wordnet_id;   /* "n02099601"; "" where unknown */
    const char *name;         /* display name: the first synonym */
    const char *const *names; /* every synonym, `n_names` of them */
    int n_names;
};

struct classes; /* opaque */

/* The 1000 classes of ImageNet. Both return NULL when memory is short. */
struct classes *classes_create_imagenet(void);
/* `count` classes; name(user, i) gives synonyms separated by ", ", or NULL for "class i". */
struct classes *classes_create_named(int count, const char *(*name)(void *user, int index),
                                     void *user);
void classes_destroy(struct classes *c); /* NULL is fine */
int classes_count(const struct classes *c);

/* `index` in 0..classes_count-1. */
const struct class_info *classes_get(const struct classes *c, int index);

enum class_match {
    CLASS_FOUND,
    CLASS_UNKNOWN,
    CLASS_AMBIGUOUS, /* several classes share the name */
};

struct class_lookup {
    int index;                              /* when found */
    int candidates[CLASSES_MAX_CANDIDATES]; /* when ambiguous; for an unknown name, near misses */
    int n_candidates;
};

/* Finds a class by WordNet id or synonym. An index in decimal is understood too: a name made of
 * digits only is one (no class is called so). */
enum class_match classes_find(const struct classes *c, const char *text, size_t length,
                              struct class_lookup *out);

/* Classes with a name that contains `query` (normalised as above; "" matches all) or whose WordNet
 * id or index begins with it: writes up to `max` indices and returns how many were written. Names
 * that begin with the query come first, then names in which a word does, then the rest. */
int classes_search(const struct classes *c, const char *query, size_t length, int *out, int max);

#endif

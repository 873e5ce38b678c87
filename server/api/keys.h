/* API keys: a file of "name key" lines. A key is compared in a time that does not depend on how
 * much of it is right, and is never written anywhere; the name is what logs and limits use. */
#ifndef KEYS_H
#define KEYS_H

#include "imf.h"

struct keys;

enum { KEYS_MAX_LENGTH = 200, KEYS_MIN_LENGTH = 8, KEYS_MAX_NAME = 63 };

IMF_MUST_CHECK imf_status keys_load(struct keys **out, const char *path, struct imf_error *err);
/* The same from text; `name` is what errors call it. */
IMF_MUST_CHECK imf_status keys_parse(struct keys **out, const char *text, size_t length,
                                     const char *name, struct imf_error *err);
void keys_free(struct keys *k); /* NULL is fine */
int keys_count(const struct keys *k);
/* Name of the key in an Authorization header's value ("Bearer ..."), or NULL. Valid until
 * keys_free. */
const char *keys_check(const struct keys *k, const char *authorization);

#endif

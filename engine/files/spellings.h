/* One tensor, many names: training wrappers put prefixes in, versions of a code base rename parts.
 * Names are compared in one spelling, so that whoever looks for one finds it under any. */
#ifndef IMF__SPELLINGS_H
#define IMF__SPELLINGS_H

#include <stddef.h>

/* Writes the name in its one spelling, NUL-terminated and never longer than `name`, whose room dst
 * has. Returns its length. */
size_t imf__spelling(char *dst, const char *name);

#endif

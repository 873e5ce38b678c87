/* One tensor, many names: training wrappers put prefixes in, versions of a code base rename parts.
 * Names are compared in one spelling, so that whoever looks for one finds it under any. */
#ifndef IMF__SPELLINGS_H
#define IMF__SPELLINGS_H

#include <stddef.h>

/* Writes the name in its one spelling, NUL-terminated and never longer than `name`, whose room dst
 * has. Returns its length. */
size_t imf__spelling(char *dst, const char *name);
/* The wrappers of training that are left out of names: "module", ...; NULL after the last. */
const char *imf__spelling_wrapper(int i);
/* Those in a name: bit i stands for the i-th. */
unsigned imf__spelling_wrappers_in(const char *name);

#endif

/* UTF-8: no overlong forms, no surrogates, nothing past U+10FFFF. */
#ifndef IMF__UTF8_H
#define IMF__UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the well-formed sequence at `text` (1 to 4), of which `left` > 0 are there; 0: none. */
size_t imf__utf8_length(const char *text, size_t left);
/* Whether n bytes are well-formed. */
bool imf__utf8_valid(const char *text, size_t n);
/* Writes a code point, at most 4 bytes; returns how many. */
size_t imf__utf8_put(char *dst, unsigned code);

#endif

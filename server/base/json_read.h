/* Reading JSON that comes from outside. */
#ifndef JSON_READ_H
#define JSON_READ_H

#include "common/json.h"

#include <cjson/cJSON.h>

/* Parses a text that imf__json_check accepts; the caller deletes. NULL: *fault says why, out of
 * memory (fault->no_memory) included. cJSON alone would take `01`, raw tabs and a byte order mark,
 * and cut names at \u0000. */
cJSON *json_read(const char *text, size_t length, struct imf__json_fault *fault);
/* The line, counted from 1, that byte `at` is in. */
int json_line(const char *text, size_t at);

#endif

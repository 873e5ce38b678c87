/* A whole file in memory. */
#ifndef IMFD_READ_FILE_H
#define IMFD_READ_FILE_H

#include "imf.h"

/* Reads a file of at most `max` bytes, or standard input where the path is "-" and `or_stdin`. *text
 * is malloc'ed and has a NUL behind it. Nothing of the contents stays anywhere else in memory. The
 * sentence of an error begins with the path. */
IMF_MUST_CHECK imf_status imfd_read_file(char **text, size_t *size, const char *path, size_t max,
                                         bool or_stdin, struct imf_error *err);

#endif

/* Whole lines to a file or stderr, by a thread of its own: whoever logs never waits for a disk or
 * for the reader of a pipe. Lines that cannot be kept or written are lost and counted.
 *
 * Threads: any, except that reopen and destroy are one thread's. */
#ifndef LOG_WRITER_H
#define LOG_WRITER_H

#include "base/json_write.h"
#include "imf.h"

struct log_writer; /* opaque */

/* path "": stderr. */
IMF_MUST_CHECK imf_status log_writer_create(struct log_writer **out, const char *path,
                                            struct imf_error *err);
/* Waits for what is left, at most a second; a thread stuck in a write is left behind. */
void log_writer_destroy(struct log_writer *w); /* NULL is fine */

/* A line is appended to this buffer, its newline included, between begin and end. */
struct buffer *log_writer_begin(struct log_writer *w);
void log_writer_end(struct log_writer *w);

/* What was appended is to be written now. Returns at once. */
void log_writer_wake(struct log_writer *w);
/* Waits until all of it has been written or lost; false when that takes longer. */
bool log_writer_wait(struct log_writer *w, int ms);
/* Opens the file anew: what was appended before goes to the old one. */
IMF_MUST_CHECK imf_status log_writer_reopen(struct log_writer *w, struct imf_error *err);

/* Lines lost since the start. */
uint64_t log_writer_lost(struct log_writer *w);
/* The same, once for each time that lines were lost and writing works again; 0: nothing to tell.
 * `why` (of 128 bytes) gets the reason. */
uint64_t log_writer_untold(struct log_writer *w, char why[128]);

#endif

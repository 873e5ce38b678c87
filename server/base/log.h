/* The log: one line per event, text for people or JSON for machines, to stderr or a file that
 * SIGHUP opens anew. Lines are gathered and handed to the writing thread once per turn of the loop
 * (log_flush): nobody who logs waits for a disk or a pipe. Lines that cannot be written are
 * counted, and a line says how many once it goes on. Loop thread only. */
#ifndef LOG_H
#define LOG_H

#include "imf.h"
#include "base/json_write.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log;

IMF_MUST_CHECK imf_status log_create(struct log **out, const char *path, bool json,
                                     enum log_level level, struct imf_error *err);
void log_destroy(struct log *l);                  /* flushes for a second at most; NULL is fine */
enum log_level log_level_parse(const char *name); /* one of the names of the settings table */
bool log_enabled(const struct log *l, enum log_level level);

__attribute__((format(printf, 3, 4))) void log_write(struct log *l, enum log_level level,
                                                     const char *format, ...);

/* One finished request. */
struct log_request {
    const char *id, *client, *key; /* key: name of the API key, or "" */
    const char *method, *uri;
    int status;
    uint64_t bytes;
    double ms;
    int n; /* pictures asked for; 0: not a picture request, and the fields below are not written */
    double queue_ms, denoise_ms, decode_ms, encode_ms; /* of the slowest picture */
    const char
        *refused; /* code of the error with which it was sent away for want of room or time */
    /* What the router that sent it said: the endpoint it chose, and whose request it is; or NULL. */
    const char *endpoint, *objective, *fairness;
    const char *cancelled; /* phase in which the client of accepted work went away, or NULL */
};
void log_access(struct log *l, const struct log_request *r);

void log_flush(struct log *l); /* returns at once */
/* Until everything is written or lost; false when it takes longer than that. */
bool log_wait(struct log *l, int ms);
uint64_t log_lost(const struct log *l); /* lines since the start */
/* After a rename by logrotate. On failure the old file stays in use. */
IMF_MUST_CHECK imf_status log_reopen(struct log *l, struct imf_error *err);

#endif

/* Counters of the HTTP side, and the text of /metrics. Loop thread only. */
#ifndef METRICS_H
#define METRICS_H

#include "http/server.h"
#include "base/json_write.h"
#include "scheduler/scheduler.h"

/* Routes as they appear in labels: a closed list, so that no client can make new series. */
enum route {
    ROUTE_GENERATE,
    ROUTE_IMAGE,
    ROUTE_OPENAI,
    ROUTE_V2_INFER,
    ROUTE_V2_MODEL,
    ROUTE_MODELS,
    ROUTE_MODEL,
    ROUTE_CLASSES,
    ROUTE_CLASS,
    ROUTE_V2_SERVER,
    ROUTE_V2_LIVE,
    ROUTE_V2_READY,
    ROUTE_V2_MODEL_READY,
    ROUTE_LIVEZ,
    ROUTE_READYZ,
    ROUTE_HEALTH,
    ROUTE_METRICS,
    ROUTE_VERSION,
    ROUTE_OPENAPI,
    ROUTE_PAGE,
    ROUTE_ASSET,
    ROUTE_UNKNOWN,
    ROUTE_COUNT
};

/* Reasons of imfd_rejected_total that are not the scheduler's. */
enum rejection { REJECTED_RATE, REJECTED_ADDRESS, REJECTED_COUNT };

struct metrics; /* opaque */

struct metrics *metrics_create(void); /* NULL when out of memory */
void metrics_destroy(struct metrics *m);
void metrics_request(struct metrics *m, enum route route, enum http_method method, int status,
                     double seconds);
void metrics_rejected(struct metrics *m, enum rejection why);
/* request_timeout: seconds a request may take. Appends everything in the Prometheus text format. */
void metrics_write(struct metrics *m, struct buffer *out, struct scheduler *s,
                   const struct http_server *http, uint64_t log_lost, bool ready,
                   double request_timeout);

#endif

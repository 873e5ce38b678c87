/* The HTTP API (the contract is docs/api.md): routes, checks, reply forms. It stands between the
 * HTTP layer and the scheduler and runs on the loop thread. */
#ifndef API_H
#define API_H

#include "http/server.h"
#include "api/keys.h"
#include "base/log.h"
#include "api/metrics.h"
#include "scheduler/scheduler.h"
#include "settings/settings.h"

struct api; /* opaque */

/* Listener tags. */
enum { API_TAG_MAIN, API_TAG_METRICS };

/* Settings and log are borrowed and must outlive the api; keys (may be NULL) are taken. */
IMF_MUST_CHECK imf_status api_create(struct api **out, uv_loop_t *loop,
                                     const struct settings *settings, struct log *log,
                                     struct keys *keys, struct imf_error *err);
/* The scheduler its pictures come from; set before the first request. */
void api_set_scheduler(struct api *a, struct scheduler *s);
void api_set_http(struct api *a, struct http_server *http);
/* Callbacks for http_server_create. */
struct http_app api_http_app(struct api *a);
/* sched_options.describe and .on_model, with the api as their user. */
void api_describe(void *api, const struct picture_key *key, struct picture_text *text);
bool api_on_model(void *api, struct scheduler *s, int model); /* false: out of memory */
/* New keys after SIGHUP; the old ones are freed. */
void api_set_keys(struct api *a, struct keys *keys);
/* /readyz answers 503 from now on. */
void api_drain(struct api *a);
/* After the http server is destroyed and before the scheduler is: closes its timer handle, which
 * wants one more turn of the loop. api_free then frees the rest. */
void api_close(struct api *a);
void api_free(struct api *a); /* NULL is fine */

#endif

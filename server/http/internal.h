/* What the http*.c files share. */
#ifndef HTTP_INTERNAL_H
#define HTTP_INTERNAL_H

#include "http/server.h"

#include <microhttpd.h>

enum http_phase {
    PHASE_HEADER,  /* request line seen */
    PHASE_BODY,    /* header complete */
    PHASE_WAITING, /* with the application */
    PHASE_SENDING, /* reply queued */
};

/* One connection. Between requests `request` is NULL. */
struct http_conn {
    struct http_server *server;
    struct http_conn *previous, *next;
    struct http_listener *listener;
    struct http_request *request;
    int fd;
    bool served;       /* a request was answered on it */
    bool cut;          /* shut down by us, waiting for libmicrohttpd to notice */
    uint64_t deadline; /* uv_now() by which something must have happened; 0: none */
    char peer[INET6_ADDRSTRLEN];
};

enum { HTTP_MAX_LISTENERS = 16, HTTP_FREE_REQUESTS = 256, HTTP_SWEEP_MS = 100 };

struct http_listener {
    struct http_server *server;
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    uv_timer_t timer;
    bool rerun;
    int tag;
    char unix_path[108];
};

struct http_server {
    uv_loop_t *loop;
    struct http_limits limits;
    struct http_app app;
    struct http_listener *listeners[HTTP_MAX_LISTENERS];
    int n_listeners;
    uv_timer_t sweep;
    uv_prepare_t prepare;
    bool dirty;    /* a connection was resumed since the last MHD_run */
    bool draining; /* not listening any more */
    bool stopping; /* no request may wait any more */
    int open_handles;
    unsigned active;
    struct http_counts counts;
    struct http_conn *conns;
    struct http_request *free_requests;
    int n_free;
    struct http_watch *free_watches;
};

/* http_listen.c: a bound, listening, non-blocking socket, or -1 with err. unix_path (of 108 bytes)
 * is set to the path of a unix socket, else "". */
int http_listen_socket(const char *address, char *unix_path, char *bound, size_t bound_size,
                       struct imf_error *err);

/* http_errors.c */
enum MHD_Result http__queue_response(struct MHD_Connection *mhd, unsigned status,
                                     struct MHD_Response *response);
/* Writes an error reply past libmicrohttpd, which has written nothing for this request yet. */
void http__send_error(struct http_conn *c, int status);

/* http_request.c */
void *http__on_uri(void *cls, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result http__on_access(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **state);
void http__on_completed(void *cls, struct MHD_Connection *mhd, void **state,
                        enum MHD_RequestTerminationCode why);
void http__cut_waiting(struct http_request *r);
void http__free_pools(struct http_server *s);
/* The connection is cut unless something happens within `ms`; 0: it may wait for ever. */
void http__set_deadline(struct http_request *r, uint64_t ms);
/* Suspends, inside a callback of libmicrohttpd; the loop watches the socket meanwhile. */
void http__suspend(struct http_request *r);
void http__resume(struct http_request *r); /* nothing when it is not suspended */

/* http_reply.c */
/* Hands the reply to libmicrohttpd. */
enum MHD_Result http__send_reply(struct http_request *r);
/* What was pushed and is not sent. */
void http__segments_free(struct http_request *r);

#endif

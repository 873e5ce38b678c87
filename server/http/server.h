/* HTTP/1.1 on a libuv loop. This layer knows connections, requests and replies; what a request
 * means is the business of the `struct http_app` it is given (api/api.c). docs/http.md tells the
 * whole.
 *
 * Everything here runs on the loop thread. Clients' bytes are read and judged by code of this
 * folder only (head.c, chunks.c); libmicrohttpd writes the heads of replies and never sees them.
 *
 * Life of a request: on_headers (may refuse), then the body is gathered, on_request (replies, or
 * returns without a reply: the connection waits and http_reply_* comes later), on_done exactly
 * once. A request that breaks the rules of HTTP gets on_refuse instead. */
#ifndef HTTP_H
#define HTTP_H

#include "base/blob.h"
#include "imf.h"
#include "base/json_write.h"

#include <netinet/in.h>
#include <uv.h>

struct http_server; /* opaque */
struct http_conn;   /* opaque */
struct http_segment;

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_OPTIONS, HTTP_OTHER, HTTP_METHOD_COUNT };
const char *http_method_name(enum http_method method); /* "GET"; "other" */

/* Request headers the program reads, collected in one pass. */
enum http_header {
    HTTP_ACCEPT,
    HTTP_ACCEPT_ENCODING,
    HTTP_ACCESS_CONTROL_REQUEST_HEADERS,
    HTTP_ACCESS_CONTROL_REQUEST_METHOD,
    HTTP_AUTHORIZATION,
    HTTP_CONNECTION,
    HTTP_CONTENT_ENCODING,
    HTTP_CONTENT_LENGTH,
    HTTP_CONTENT_TYPE,
    HTTP_EXPECT,
    HTTP_HOST,
    HTTP_IF_NONE_MATCH,
    HTTP_INFERENCE_HEADER_CONTENT_LENGTH,
    HTTP_ORIGIN,
    HTTP_REFERER,
    HTTP_SEC_FETCH_SITE,
    HTTP_SEC_FETCH_USER,
    HTTP_TRANSFER_ENCODING,
    HTTP_X_FORWARDED_FOR,
    HTTP_X_FORWARDED_HOST,
    HTTP_X_FORWARDED_PREFIX,
    HTTP_X_FORWARDED_PROTO,
    HTTP_X_GATEWAY_DESTINATION_ENDPOINT,
    HTTP_X_LLM_D_INFERENCE_FAIRNESS_ID,
    HTTP_X_LLM_D_INFERENCE_OBJECTIVE,
    HTTP_X_REQUEST_ID,
    HTTP_HEADER_COUNT
};

enum {
    HTTP_MAX_URI = 8000,         /* longer: 414 */
    HTTP_MAX_REPLY_HEADERS = 24, /* set by the application on one reply */
    HTTP_REPLY_TEXT = 3072,      /* bytes for their values */
};

/* How a request ended. */
enum http_end {
    HTTP_SENT,    /* the reply went to the socket in full */
    HTTP_GONE,    /* the client went away before that */
    HTTP_SHED,    /* we cut the connection: a time limit passed */
    HTTP_ABORTED, /* the application or the shutdown cut a reply short */
};

struct http_request {
    /* Given to the application. */
    enum http_method method;
    const char *method_name; /* as sent; "-" where it could not be read */
    const char *uri; /* path and query as sent, before any decoding; "*" of OPTIONS; "" unread */
    const char *headers[HTTP_HEADER_COUNT]; /* NULL where absent; valid until on_done. Lists given
                                               on several lines are joined */
    bool http10;
    struct buffer body;
    uint64_t start_ns; /* uv_hrtime() of the complete head */
    struct http_conn *conn;
    int status;          /* of the reply, 0 before there is one */
    uint64_t body_bytes; /* of the reply, sent or about to be */
    void *user;          /* the application's own; NULL at first */

    /* This layer's own; see request.c and reply.c. */
    struct http_server *server;
    bool has_reply, head_sent, no_body, close_after, discard, broken;
    bool streaming, stream_ended, stream_failed, chunked;
    uint64_t received; /* of the body */
    uint64_t size;     /* of the reply's body; UINT64_MAX: unknown */
    const char *data;  /* that body, unless it is streamed */
    size_t sent;       /* of it */
    void *owned;       /* what holds `data`: freed, or dropped when it is a blob */
    struct blob *blob;
    struct http_segment *first, *last;
    char *joined; /* header lists */
    int n_reply_headers;
    struct {
        const char *name, *value;
    } reply_headers[HTTP_MAX_REPLY_HEADERS];
    size_t text_used;
    struct http_request *next_free;
    char text[HTTP_REPLY_TEXT];
};

struct http_app {
    void *user;
    /* The header is complete. May reply, which refuses the request before its body is read. */
    void (*on_headers)(void *user, struct http_request *r);
    /* The whole request is here. */
    void (*on_request)(void *user, struct http_request *r);
    /* It breaks the rules of HTTP, is too large or too slow: must reply with this status, one of
     * 400, 408, 413, 414, 431, 503 (memory is short), 505. */
    void (*on_refuse)(void *user, struct http_request *r, int status, const char *message);
    /* The client of a waiting or streaming request has gone. No reply can be sent any more. */
    void (*on_gone)(void *user, struct http_request *r);
    /* `count` marked segments were consumed (http_push_*). May push more. */
    void (*on_drained)(void *user, struct http_request *r, uint32_t count);
    /* The last call for a request. */
    void (*on_done)(void *user, struct http_request *r, enum http_end end);
    /* Whether this peer may hold any number of connections: it speaks for many. */
    bool (*is_proxy)(void *user, const char *peer);
};

struct http_limits {
    size_t max_body;
    unsigned max_connections, max_per_address; /* connections of an address or an IPv6 /64 */
    uint64_t header_timeout_ms, body_timeout_ms, send_timeout_ms, idle_timeout_ms;
};

IMF_MUST_CHECK imf_status http_server_create(struct http_server **out, uv_loop_t *loop,
                                             const struct http_limits *limits,
                                             const struct http_app *app, struct imf_error *err);
/* How many listening sockets the service manager passed to this process (sd_listen_fds(3)). */
int http_listen_passed(void);
/* Starts to listen on "127.0.0.1:8080", "[::]:8080", "unix:/path" or "systemd:0", the first socket
 * passed. `tag` is what http_request_tag
 * gives for its requests. `bound` (may be NULL) gets the address with the port the kernel chose. */
IMF_MUST_CHECK imf_status http_server_listen(struct http_server *s, const char *address, int tag,
                                             char *bound, size_t bound_size, struct imf_error *err);
/* Stops listening; open connections are told to close after their reply. */
void http_server_quiesce(struct http_server *s);
/* Requests between their head and on_done. */
unsigned http_server_active(const struct http_server *s);
struct http_counts {
    unsigned idle, reading, waiting, writing; /* connections by state */
    uint64_t accepted, timed_out, slow_readers;
    uint64_t evicted; /* idle ones that made room */
    uint64_t refused; /* of an address that has too many, all of them busy */
};
void http_server_counts(const struct http_server *s, struct http_counts *out);
/* Cuts every connection, runs on_done for what was left and frees all. Runs the loop until its own
 * handles are closed. */
void http_server_destroy(struct http_server *s);

/* ---- Replies ------------------------------------------------------------------------------- */

/* Adds a header to the coming reply. Values are copied. One that does not fit or holds a line break
 * makes the reply a 503: no reply goes out without a header it should have. */
void http_header(struct http_request *r, const char *name, const char *value);
__attribute__((format(printf, 3, 4))) void http_headerf(struct http_request *r, const char *name,
                                                        const char *format, ...);
/* Takes back the headers added so far. */
void http_clear_headers(struct http_request *r);
static inline bool http_has_reply(const struct http_request *r)
{
    return r->has_reply;
}
/* The reply is given and nothing can be added: it is complete, ended or cut. */
static inline bool http_reply_over(const struct http_request *r)
{
    return r->has_reply && (!r->streaming || r->stream_ended || r->stream_failed);
}

/* Each gives the request its one reply. */
void http_reply_static(struct http_request *r, int status, const void *data, size_t size);
void http_reply_buffer(struct http_request *r, int status, struct buffer *b); /* takes b's bytes */
void http_reply_blob(struct http_request *r, int status, struct blob *b); /* takes a reference */
/* To HEAD, when the size is not known. */
void http_reply_head(struct http_request *r, int status);

/* A reply that comes in pieces; `size` is the total, or UINT64_MAX. Push, then end or fail; both
 * may be called before, during and after the wait. */
void http_reply_stream(struct http_request *r, int status, uint64_t size);
/* Memory shortage is http_stream_starve. `marked` segments are reported to on_drained when used up.
 */
void http_push_copy(struct http_request *r, const void *data, size_t size);
void http_push_blob(struct http_request *r, struct blob *b, size_t offset, size_t size, bool base64,
                    bool marked);
void http_stream_end(struct http_request *r);
void http_stream_fail(struct http_request *r); /* cuts the connection, so that the client notices */
/* Memory is short: 503 when nothing of the reply was sent yet, else as above. */
void http_stream_starve(struct http_request *r);
/* Takes back a stream of which nothing was sent, headers and all: another reply must be given now.
 * False when it is too late for that. */
bool http_stream_withdraw(struct http_request *r);
/* Nothing is queued for sending. */
bool http_stream_idle(const struct http_request *r);

/* ---- Facts about the connection -------------------------------------------------------------- */

/* The peer's address in text; "unix" for a unix socket. Valid while the connection is. */
const char *http_peer(const struct http_request *r);
int http_request_tag(const struct http_request *r);

#endif

/* What the files of this folder share. */
#ifndef HTTP_INTERNAL_H
#define HTTP_INTERNAL_H

#include "http/head.h"
#include "http/server.h"

enum {
    HTTP_MAX_LISTENERS = 16,
    HTTP_FREE_REQUESTS = 256,
    HTTP_FREE_INPUTS = 64,
    HTTP_SWEEP_MS = 100,
    HTTP_LINGER_MS = 2000,
    HTTP_BODY_PATIENCE_MS = 1000, /* before an unfinished body makes room */
    /* A head begins in the first half; behind it there is always room for a piece of a body. */
    HTTP_INPUT = 2 * HEAD_MAX_SIZE + 16384,
    HTTP_HEAD_OUT = 8192,  /* of a reply */
    HTTP_PIECE = 32768,    /* of a streamed reply, sent at a time */
    HTTP_REGULAR = 8,      /* requests that make a client one */
    HTTP_TURN_STEPS = 64,  /* of connections in one turn of the loop */
    HTTP_TURN_ACCEPTS = 16 /* per listener in one turn */
};

enum http_phase {
    PHASE_HEAD,    /* between requests, or within a head */
    PHASE_BODY,    /* the head is complete */
    PHASE_WAITING, /* with the application */
    PHASE_SENDING, /* there is a reply */
    PHASE_LINGER,  /* all is said; what the client still sends is read and dropped */
    PHASE_CLOSED,  /* to be freed when the loop has let go of it */
};

/* One client. Between requests `request` is NULL. */
struct http_conn {
    struct http_server *server;
    struct http_listener *listener;
    struct http_conn *previous, *next; /* of all; those that became idle longest ago come first */
    struct http_conn *next_ready;
    struct http_request *request;
    uv_poll_t poll;
    int fd, events; /* events polled for */
    enum http_phase phase;
    bool ready;        /* in the queue of those with work to do */
    bool stepping;     /* doing it just now */
    bool hungry;       /* what was read has been looked at: more bytes are needed */
    bool linger;       /* bytes that nobody reads may be on their way to us */
    unsigned served;   /* requests */
    uint64_t deadline; /* uv_now() by which something must have happened; 0: none */
    char *input;       /* HTTP_INPUT bytes, while there is something in it */
    size_t begin, end; /* of what was read into it and is not used */
    struct http_head head;
    struct http_chunks chunks;
    char *pending; /* bytes of the reply that the socket did not take; see send.c */
    size_t pending_size, pending_sent;
    uint64_t progress;         /* bytes sent since the deadline was set */
    unsigned char address[16]; /* IPv4 as ::ffff:a.b.c.d, IPv6 without its last 64 bits; 0: unix */
    char peer[INET6_ADDRSTRLEN];
};

struct http_listener {
    struct http_server *server;
    uv_poll_t poll;
    int fd, tag;
    char unix_path[108];
};

struct http_server {
    uv_loop_t *loop;
    struct http_limits limits;
    struct http_app app;
    struct http_listener *listeners[HTTP_MAX_LISTENERS];
    int n_listeners;
    uv_timer_t sweep;
    uv_check_t check; /* runs what is ready, after the loop has polled */
    uv_idle_t idle;   /* active while something is ready, so that polling does not wait */
    bool paused;      /* no room for more connections: not accepting */
    bool draining;    /* not listening any more */
    int open_handles;
    unsigned active;
    struct http_counts counts;
    struct http_conn *first, *last; /* connections */
    struct http_conn *spare;        /* for the next one: who is accepted can be answered */
    unsigned n_conns;
    struct http_conn *ready_first, *ready_last;
    unsigned n_ready;
    struct http_request *free_requests;
    char *free_inputs; /* each begins with the address of the next */
    int n_free, n_free_inputs;
    struct http_writer *writer;
    char head_out[HTTP_HEAD_OUT];
    char piece[HTTP_PIECE + 64];
};

/* listen.c: a bound, listening, non-blocking socket, or -1 with err. unix_path (of 108 bytes)
 * is set to the path of a unix socket, else "". */
int http_listen_socket(const char *address, char *unix_path, char *bound, size_t bound_size,
                       struct imf_error *err);

/* accept.c: who gets a connection. */
void http__on_listen(uv_poll_t *poll, int status, int events);
/* There may be room again. */
void http__resume_accepting(struct http_server *s);

/* server.c */
/* Puts the connection in the queue: it gets its step in this turn of the loop or a later one. */
void http__ready(struct http_conn *c);

/* connection.c */
/* Whether there is memory for one more connection. */
bool http__prepare(struct http_server *s);
/* Takes the socket over, after http__prepare. False when the loop does not take it; it is closed
 * then. */
bool http__open(struct http_listener *l, int fd, const char *peer, const unsigned char address[16]);
/* Closes and frees; a request on it ends that way first. */
void http__close(struct http_conn *c, enum http_end end);
/* A bounded amount of work: a piece of input, one request, a piece of output. */
void http__step(struct http_conn *c);
/* The deadline has passed. */
void http__overdue(struct http_conn *c);
/* The connection is cut unless something happens within `ms`; 0: it may wait for ever. */
void http__set_deadline(struct http_conn *c, uint64_t ms);
/* Polls for what the connection waits for. */
void http__watch(struct http_conn *c, int events);
/* The reply has left in full: the next request, or the end. */
void http__sent(struct http_conn *c);
/* 503 without asking anybody, for want of memory; ends the connection. Nothing was sent before. */
void http__refuse_bare(struct http_conn *c);
void http__free_pools(struct http_server *s);

/* request.c */
struct http_request *http__request_new(struct http_conn *c); /* NULL when out of memory */
void http__request_end(struct http_request *r, enum http_end end);

/* reply.c */
/* What was pushed and is not sent; what holds a body. */
void http__reply_free(struct http_request *r);
/* Up to HTTP_PIECE bytes of a streamed reply, as they go over the wire, into out. */
size_t http__take_piece(struct http_request *r, char *out);

/* send.c: goes on sending the reply. */
void http__send(struct http_conn *c);

/* head_writer.c: heads of replies. */
struct http_writer *http__writer_create(void); /* NULL when out of memory or descriptors */
void http__writer_destroy(struct http_writer *w);
/* Writes the head of the reply, its blank line included; returns its size, 0 on failure. */
size_t http__write_head(struct http_writer *w, const struct http_request *r, char *out,
                        size_t room);

#endif

/* One request, from its head to on_done. */
#include "http/internal.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct http_request *http__request_new(struct http_conn *c)
{
    struct http_server *s = c->server;
    struct http_request *r = s->free_requests;
    if (r) {
        s->free_requests = r->next_free;
        s->n_free--;
    } else if (!(r = malloc(sizeof(*r)))) {
        return NULL;
    }
    memset(r, 0, offsetof(struct http_request, text));
    buffer_init(&r->body, s->limits.max_body);
    const struct http_head *h = &c->head;
    r->method = h->method_name ? h->method : HTTP_OTHER;
    r->method_name = h->method_name ? h->method_name : "-";
    r->uri = h->target ? h->target : "";
    r->http10 = h->http10;
    r->start_ns = uv_hrtime();
    r->server = s;
    r->conn = c;
    c->request = r;
    s->active++;
    return r;
}

void http__request_end(struct http_request *r, enum http_end end)
{
    struct http_server *s = r->server;
    s->app.on_done(s->app.user, r, r->stream_failed && end == HTTP_SENT ? HTTP_ABORTED : end);
    r->conn->request = NULL;
    s->active--;
    http__reply_free(r);
    buffer_free(&r->body);
    free(r->joined);
    if (s->n_free >= HTTP_FREE_REQUESTS) {
        free(r);
        return;
    }
    r->next_free = s->free_requests;
    s->free_requests = r;
    s->n_free++;
}

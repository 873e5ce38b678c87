/* The common parts of replies: headers that every reply carries, errors, addresses of our own. */
#include "api/internal.h"
#include "http/text.h"

#include <string.h>
#include <strings.h>

void api_common_headers(struct api_call *c)
{
    struct http_request *r = c->http;
    http_header(r, "X-Request-Id", c->id);
    http_header(r, "X-Content-Type-Options", "nosniff");
    if (c->api->settings->cors_origins.n == 0)
        return;
    const char *origin = api_allowed_origin(c->api, r->headers[HTTP_ORIGIN]);
    if (!origin || strcmp(origin, "*") != 0)
        http_header(r, "Vary", "Origin");
    if (!origin)
        return;
    http_header(r, "Access-Control-Allow-Origin", origin);
    http_header(
        r, "Access-Control-Expose-Headers",
        "ETag, Retry-After, retry-after-ms, Server-Timing, X-Imfd-Class, X-Imfd-Fingerprint, "
        "X-Imfd-Seed, X-Request-Id");
}

void api_reply_json(struct api_call *c, int status, struct buffer *body)
{
    http_header(c->http, "Content-Type", "application/json");
    api_common_headers(c);
    http_reply_buffer(c->http, status, body);
}

void api_fail(struct api_call *c, const struct api_problem *p)
{
    struct buffer body;
    struct json_writer w;
    int status = api_status(p);
    if (p->memory)
        sched_shed(c->api->scheduler);
    if (status == 429 || status == 503 || status == 504)
        c->refused = api_code(p);
    buffer_init(&body, 1 << 16);
    json_init(&w, &body);
    if (c->inference) { /* a sentence, by that protocol */
        json_object_begin(&w);
        json_key(&w, "error");
        json_string(&w, p->message);
        json_object_end(&w);
    } else {
        api_error_json(&w, p);
    }
    http_clear_headers(c->http);
    if (status == 401)
        http_header(c->http, "WWW-Authenticate", "Bearer realm=\"imfd\"");
    if (status == 429 || status == 503) {
        uint64_t ms = p->retry_us > 0 ? (p->retry_us + 999) / 1000 : 1000;
        http_headerf(c->http, "Retry-After", "%llu", (unsigned long long)((ms + 999) / 1000));
        http_headerf(c->http, "retry-after-ms", "%llu", (unsigned long long)ms);
    }
    if (status == 504)
        http_header(c->http, "x-should-retry", "false");
    http_header(c->http, "Cache-Control", "no-store");
    api_reply_json(c, status, &body);
}

void api_base_url(const struct api_call *c, struct buffer *out)
{
    const struct http_request *r = c->http;
    const char *proto = "http", *host = r->headers[HTTP_HOST], *prefix = NULL;
    if (c->trusted) {
        const char *forwarded = r->headers[HTTP_X_FORWARDED_PROTO];
        if (forwarded && strcasecmp(forwarded, "https") == 0)
            proto = "https";
        forwarded = r->headers[HTTP_X_FORWARDED_HOST];
        if (forwarded && host_valid(forwarded))
            host = forwarded;
        prefix = r->headers[HTTP_X_FORWARDED_PREFIX];
    }
    if (!host || !host_valid(host))
        host = "localhost";
    buffer_printf(out, "%s://%s", proto, host);
    if (prefix && prefix[0] == '/' && strlen(prefix) < 200 &&
        strspn(prefix, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._~-") ==
            strlen(prefix)) {
        size_t n = strlen(prefix);
        buffer_append(out, prefix, prefix[n - 1] == '/' ? n - 1 : n);
    }
    buffer_append_text(out, c->api->settings->root_path);
}

void api_write_sampling(struct json_writer *w, const struct imf_sampling *s)
{
    json_key(w, "steps");
    json_int(w, s->steps);
    json_key(w, "omega");
    json_float(w, s->omega);
    json_key(w, "t_min");
    json_float(w, s->t_min);
    json_key(w, "t_max");
    json_float(w, s->t_max);
}

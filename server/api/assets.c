/* The documents compiled into the program: the web page and /openapi.json, as they are and gzipped.
 * They are compressed once, at start (a few milliseconds), so no reply waits for it. */
#include "api/internal.h"
#include "http/text.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <libdeflate.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct embedded_file embedded_web[];
extern const struct embedded_file embedded_openapi[];

enum { MAX_ASSETS = 64, MAX_DOCUMENT = 1 << 20, GZIP_LEVEL = 9 };

struct asset {
    const char *name; /* path below /web */
    const void *data;
    size_t size;
    struct blob *gzip; /* NULL where it saves nothing */
    /* Two representations, two entity tags. */
    char etag[24], gzip_etag[24];
};

struct assets {
    struct asset page[MAX_ASSETS];
    int count;
    struct asset openapi;
    struct buffer text; /* of openapi, where a root_path changes it */
};

static void prepare(struct asset *a, const char *name, const void *data, size_t size,
                    struct libdeflate_compressor *compressor)
{
    unsigned long long hash = XXH3_64bits(data, size);
    *a = (struct asset){.name = name, .data = data, .size = size};
    snprintf(a->etag, sizeof(a->etag), "\"%016llx\"", hash);
    snprintf(a->gzip_etag, sizeof(a->gzip_etag), "\"%016llx-gz\"", hash);
    size_t room = compressor ? size - size / 10 : 0; /* less is not worth it */
    struct blob *b = room > 0 ? blob_new(room) : NULL;
    size_t packed = b ? libdeflate_gzip_compress(compressor, data, size, b->data, room) : 0;
    if (packed == 0) {
        blob_drop(b);
        return;
    }
    b->size = packed;
    a->gzip = b;
}

/* Below a root_path the document says so: its paths are relative to it. */
static void compose_openapi(struct assets *a, const char *root_path)
{
    const struct embedded_file *file = &embedded_openapi[0];
    struct json_writer w;
    buffer_init(&a->text, MAX_DOCUMENT);
    json_init(&w, &a->text);
    buffer_append_text(&a->text, "{\"servers\": [{\"url\": ");
    json_string(&w, root_path);
    buffer_append_text(&a->text, "}],");
    buffer_append(&a->text, file->data + 1, (size_t)(file->end - file->data) - 1);
}

struct assets *assets_create(const char *root_path)
{
    struct assets *a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(GZIP_LEVEL);
    for (const struct embedded_file *f = embedded_web; f->name && a->count < MAX_ASSETS; f++)
        prepare(&a->page[a->count++], f->name, f->data, (size_t)(f->end - f->data), compressor);
    if (root_path[0] != '\0') {
        compose_openapi(a, root_path);
        prepare(&a->openapi, "openapi.json", a->text.data, a->text.failed ? 0 : a->text.size,
                compressor);
    } else {
        prepare(&a->openapi, "openapi.json", embedded_openapi[0].data,
                (size_t)(embedded_openapi[0].end - embedded_openapi[0].data), compressor);
    }
    libdeflate_free_compressor(compressor);
    return a;
}

void assets_destroy(struct assets *a)
{
    if (!a)
        return;
    for (int i = 0; i < a->count; i++)
        blob_drop(a->page[i].gzip);
    blob_drop(a->openapi.gzip);
    buffer_free(&a->text);
    free(a);
}

static const char *type_of(const char *name)
{
    static const struct {
        const char *suffix, *type;
    } types[] = {{".html", "text/html; charset=utf-8"},
                 {".css", "text/css; charset=utf-8"},
                 {".js", "text/javascript; charset=utf-8"},
                 {".json", "application/json"},
                 {".svg", "image/svg+xml"},
                 {".png", "image/png"},
                 {".ico", "image/x-icon"},
                 {".webmanifest", "application/manifest+json"},
                 {".txt", "text/plain; charset=utf-8"}};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcmp(dot, types[i].suffix) == 0)
            return types[i].type;
    }
    return "application/octet-stream";
}

static void reply_asset(struct api_call *c, const struct asset *a)
{
    struct http_request *r = c->http;
    bool gzip = a->gzip && encoding_accepted(r->headers[HTTP_ACCEPT_ENCODING], "gzip");
    const char *etag = gzip ? a->gzip_etag : a->etag;
    http_header(r, "ETag", etag);
    http_header(r, "Cache-Control", "no-cache");
    if (a->gzip)
        http_header(r, "Vary", "Accept-Encoding");
    api_common_headers(c);
    if (r->headers[HTTP_IF_NONE_MATCH] && etag_matches(r->headers[HTTP_IF_NONE_MATCH], etag)) {
        http_reply_static(r, 304, "", 0);
        return;
    }
    http_header(r, "Content-Type", type_of(a->name));
    if (gzip)
        http_header(r, "Content-Encoding", "gzip");
    if (c->route == ROUTE_PAGE || c->route == ROUTE_ASSET) {
        http_header(r, "Content-Security-Policy",
                    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: "
                    "data:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action "
                    "'none'; frame-ancestors 'none'");
        http_header(r, "Referrer-Policy", "no-referrer");
        http_header(r, "X-Frame-Options", "DENY");
        http_header(r, "Cross-Origin-Opener-Policy", "same-origin");
    }
    if (gzip)
        http_reply_static(r, 200, a->gzip->data, a->gzip->size);
    else
        http_reply_static(r, 200, a->data, a->size);
}

void api_get_openapi(struct api_call *c)
{
    reply_asset(c, &c->api->assets->openapi);
}

void api_get_asset(struct api_call *c, const char *name)
{
    const struct assets *assets = c->api->assets;
    struct api_problem p;
    for (int i = 0; i < assets->count; i++) {
        if (strcmp(assets->page[i].name, name) == 0) {
            reply_asset(c, &assets->page[i]);
            return;
        }
    }
    api_problem_set(&p, API_NOT_FOUND, NULL, "there is nothing at this address");
    api_fail(c, &p);
}

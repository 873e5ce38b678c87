/* From the request target to a route and the variable parts of its path. */
#include "api/internal.h"
#include "http/text.h"

#include <string.h>

enum { MAX_SEGMENTS = 6, METHOD_GET = 1 << HTTP_GET | 1 << HTTP_HEAD };

struct segment {
    const char *text;
    size_t length;
};

static bool is(const struct segment *s, const char *text)
{
    return s->length == strlen(text) && memcmp(s->text, text, s->length) == 0;
}

static enum route route_v1(const struct segment *s, int n)
{
    if (n == 2 && is(&s[1], "generate"))
        return ROUTE_GENERATE;
    if (n == 2 && is(&s[1], "models"))
        return ROUTE_MODELS;
    if (n == 2 && is(&s[1], "classes"))
        return ROUTE_CLASSES;
    if (n == 3 && is(&s[1], "models"))
        return ROUTE_MODEL;
    if (n == 3 && is(&s[1], "classes"))
        return ROUTE_CLASS;
    if (n == 3 && is(&s[1], "images") && is(&s[2], "generations"))
        return ROUTE_OPENAI;
    if (n == 5 && is(&s[1], "images"))
        return ROUTE_IMAGE;
    return ROUTE_UNKNOWN;
}

/* models/{id}[/versions/{version}][/what] */
static enum route route_v2(const struct segment *s, int n)
{
    if (n == 1)
        return ROUTE_V2_SERVER;
    if (n == 3 && is(&s[1], "health"))
        return is(&s[2], "live")    ? ROUTE_V2_LIVE
               : is(&s[2], "ready") ? ROUTE_V2_READY
                                    : ROUTE_UNKNOWN;
    if (n < 3 || !is(&s[1], "models"))
        return ROUTE_UNKNOWN;
    int last = n >= 5 && is(&s[3], "versions") ? 5 : 3; /* parts before what is asked for */
    if (n == last)
        return ROUTE_V2_MODEL;
    if (n == last + 1 && is(&s[last], "ready"))
        return ROUTE_V2_MODEL_READY;
    if (n == last + 1 && is(&s[last], "infer"))
        return ROUTE_V2_INFER;
    return ROUTE_UNKNOWN;
}

static enum route route_of(const struct segment *s, int n)
{
    static const struct {
        const char *name;
        enum route route;
    } single[] = {{"livez", ROUTE_LIVEZ},
                  {"readyz", ROUTE_READYZ},
                  {"health", ROUTE_HEALTH},
                  {"metrics", ROUTE_METRICS},
                  {"version", ROUTE_VERSION},
                  {"openapi.json", ROUTE_OPENAPI},
                  {"", ROUTE_PAGE}};
    if (n >= 2 && is(&s[0], "v1"))
        return route_v1(s, n);
    if (is(&s[0], "v2"))
        return route_v2(s, n);
    if (n >= 2 && is(&s[0], "web"))
        return ROUTE_ASSET;
    for (size_t i = 0; n == 1 && i < sizeof(single) / sizeof(single[0]); i++) {
        if (is(&s[0], single[i].name))
            return single[i].route;
    }
    return ROUTE_UNKNOWN;
}

void api_find_route(struct api_call *c)
{
    struct segment path, s[MAX_SEGMENTS];
    const char *root = c->api->settings->root_path;
    size_t root_length = strlen(root);
    int n = 0;
    path.text = c->http->uri;
    path.length = strcspn(path.text, "?");
    c->query = path.text[path.length] == '?' ? path.text + path.length + 1 : "";
    c->route = ROUTE_UNKNOWN;
    if (path.length < root_length || memcmp(path.text, root, root_length) != 0)
        return;
    const char *at = path.text + root_length, *end = path.text + path.length;
    if (at == end && root_length > 0) { /* "/images" itself */
        c->route = ROUTE_PAGE;
        c->bare_root = true;
        return;
    }
    if (at == end || *at != '/')
        return;
    while (at < end && n < MAX_SEGMENTS) {
        const char *begin = at + 1, *slash = memchr(begin, '/', (size_t)(end - begin));
        at = slash ? slash : end;
        s[n++] = (struct segment){begin, (size_t)(at - begin)};
    }
    c->inference = n > 0 && is(&s[0], "v2");
    if (at < end) /* more parts than any route has */
        return;
    c->route = route_of(s, n);
    if (http_request_tag(c->http) == API_TAG_METRICS && c->route != ROUTE_METRICS &&
        c->route != ROUTE_LIVEZ && c->route != ROUTE_READYZ && c->route != ROUTE_HEALTH)
        c->route = ROUTE_UNKNOWN;
    if (http_request_tag(c->http) == API_TAG_MAIN && c->route == ROUTE_METRICS &&
        c->api->settings->metrics_listen[0] != '\0')
        c->route = ROUTE_UNKNOWN;
    for (int i = 0; i < 3 && i + 2 < n; i++) {
        c->part[i].text = s[i + 2].text;
        c->part[i].length = s[i + 2].length;
    }
    if (c->route == ROUTE_ASSET) { /* everything after /web/ */
        c->part[0].text = s[1].text;
        c->part[0].length = (size_t)(end - s[1].text);
    }
}

unsigned api_route_methods(enum route route, const char **allow)
{
    bool post = route == ROUTE_GENERATE || route == ROUTE_OPENAI || route == ROUTE_V2_INFER;
    *allow = post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
    return post ? 1 << HTTP_POST : METHOD_GET;
}

bool api_decode(char *text, size_t capacity, const char *encoded, size_t n)
{
    return percent_decode(text, capacity, encoded, n, false);
}

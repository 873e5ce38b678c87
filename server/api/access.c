/* Who may ask: keys, the names this server goes by, pages of other origins. A browser lets any page
 * send what a form or a picture's address could, with the reader's network and without asking; so
 * work starts only from requests that a page of another origin cannot make unless it is listed. */
#include "api/internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- Keys ------------------------------------------------------------------------------------ */

bool api_check_key(struct api_call *c, struct api_problem *p)
{
    if (!c->api->keys || c->route > ROUTE_CLASS)
        return true;
    const char *given = c->http->headers[HTTP_AUTHORIZATION];
    const char *name = keys_check(c->api->keys, given);
    if (name) {
        snprintf(c->key, sizeof(c->key), "%s", name);
        return true;
    }
    return api_problem_set(p, API_NO_KEY, NULL, "%s",
                           !given ? "an API key is needed: Authorization: Bearer KEY"
                                  : "the API key is not known");
}

/* ---- Bodies ---------------------------------------------------------------------------------- */

static bool is_type(const char *type, const char *wanted)
{
    size_t n = strlen(wanted);
    return type && strncasecmp(type, wanted, n) == 0 &&
           (type[n] == '\0' || strchr("; \t", type[n]));
}

/* Without a type a body may come from a page that was not asked whether it may (mode "no-cors"). */
bool api_check_media_type(const struct api_call *c, struct api_problem *p)
{
    const char *type = c->http->headers[HTTP_CONTENT_TYPE];
    const char *coding = c->http->headers[HTTP_CONTENT_ENCODING];
    /* Tensors may follow JSON as bytes; Triton's client names no type, and is no browser, which
     * would say where its page comes from. */
    bool page = c->http->headers[HTTP_ORIGIN] || c->http->headers[HTTP_SEC_FETCH_SITE];
    if (!is_type(type, "application/json") &&
        !(c->route == ROUTE_V2_INFER &&
          (is_type(type, "application/octet-stream") || (!type && !page))))
        return api_problem_set(p, API_MEDIA_TYPE, NULL,
                               "Content-Type: application/json is expected");
    if (coding && coding[0] != '\0' && strcasecmp(coding, "identity") != 0)
        return api_problem_set(p, API_MEDIA_TYPE, NULL,
                               "a body with a Content-Encoding is not read; send it as it is");
    return true;
}

/* ---- Names of this server -------------------------------------------------------------------- */

/* A name without a port stands for all of its ports. */
static bool same_host(const char *allowed, const char *host)
{
    size_t n = strlen(allowed);
    return strncasecmp(allowed, host, n) == 0 && (host[n] == '\0' || host[n] == ':');
}

/* Where a page's name leads to this address without this server's knowing it (DNS rebinding), the
 * page counts as ours for a browser; its name shows in Host. */
bool api_check_host(const struct api_call *c, struct api_problem *p)
{
    const struct imfd_strings *list = &c->api->settings->allowed_hosts;
    const char *host = c->http->headers[HTTP_HOST];
    if (list->n == 0 || c->route == ROUTE_LIVEZ || c->route == ROUTE_READYZ ||
        c->route == ROUTE_HEALTH || c->route == ROUTE_V2_LIVE ||
        c->route == ROUTE_V2_READY) /* probes name the machine they reach */
        return true;
    if (c->trusted && c->http->headers[HTTP_X_FORWARDED_HOST])
        host = c->http->headers[HTTP_X_FORWARDED_HOST];
    for (int i = 0; host && i < list->n; i++) {
        if (same_host(list->items[i], host))
            return true;
    }
    return api_problem_set(p, API_HOST, NULL, "this server does not go by the name in Host");
}

/* ---- Pages of other origins ------------------------------------------------------------------ */

const char *api_allowed_origin(const struct api *a, const char *origin)
{
    const struct imfd_strings *list = &a->settings->cors_origins;
    for (int i = 0; origin && i < list->n; i++) {
        if (strcmp(list->items[i], "*") == 0)
            return "*";
        if (strcmp(list->items[i], origin) == 0)
            return origin;
    }
    return NULL;
}

/* The origin of a Referer's URL is a listed one. */
static bool listed_referer(const struct api *a, const char *referer)
{
    char origin[256];
    const char *host = referer ? strstr(referer, "://") : NULL;
    if (!host)
        return api_allowed_origin(a, "") != NULL; /* any */
    size_t n = (size_t)(host + 3 - referer) + strcspn(host + 3, "/?#");
    if (n >= sizeof(origin))
        return false;
    memcpy(origin, referer, n);
    origin[n] = '\0';
    return api_allowed_origin(a, origin) != NULL;
}

bool api_check_site(const struct api_call *c, struct api_problem *p)
{
    const struct http_request *r = c->http;
    const char *site = r->headers[HTTP_SEC_FETCH_SITE], *user = r->headers[HTTP_SEC_FETCH_USER];
    if (!site || strcasecmp(site, "cross-site") != 0 ||
        strcmp(c->api->settings->cross_site, "allow") == 0)
        return true;
    if (user && strcmp(user, "?1") == 0) /* somebody followed a link */
        return true;
    if (r->headers[HTTP_ORIGIN] ? api_allowed_origin(c->api, r->headers[HTTP_ORIGIN]) != NULL
                                : listed_referer(c->api, r->headers[HTTP_REFERER]))
        return true;
    return api_problem_set(p, API_CROSS_SITE, NULL,
                           "pages of other sites may not have pictures made here (cors_origins, "
                           "cross_site)");
}

/* What a preflight asks for: names of headers, which go into our reply. */
static bool names_only(const char *list)
{
    size_t n = strlen(list);
    return n > 0 && n <= 1024 &&
           strspn(list, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                        "!#$%&'*+-.^_`|~, \t") == n;
}

void api_reply_options(struct api_call *c, const char *allow)
{
    struct http_request *r = c->http;
    const char *asked = r->headers[HTTP_ACCESS_CONTROL_REQUEST_HEADERS];
    http_header(r, "Allow", allow);
    if (api_allowed_origin(c->api, r->headers[HTTP_ORIGIN]) &&
        r->headers[HTTP_ACCESS_CONTROL_REQUEST_METHOD]) {
        http_header(r, "Access-Control-Allow-Methods", allow);
        /* A listed origin may send any header: SDKs have their own, and none does harm here. */
        http_header(r, "Access-Control-Allow-Headers",
                    asked && names_only(asked)
                        ? asked
                        : "Authorization, Content-Type, If-None-Match, X-Request-Id");
        http_header(r, "Access-Control-Max-Age", "600");
    }
    api_common_headers(c);
    http_reply_static(r, 204, "", 0);
}

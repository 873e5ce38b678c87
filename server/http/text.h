/* Reading the texts of HTTP: percent-encoding, queries, Accept, If-None-Match. All input is
 * hostile; nothing here allocates. */
#ifndef HTTP_TEXT_H
#define HTTP_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Decodes src[0..n) into dst (NUL-terminated). False when it does not fit, is badly encoded, or
 * holds a control character. `plus` reads '+' as a blank, as in queries. */
bool percent_decode(char *dst, size_t capacity, const char *src, size_t n, bool plus);
/* Appends src with everything but unreserved characters encoded; returns the length it needs, as
 * snprintf does. */
size_t percent_encode(char *dst, size_t capacity, const char *src);

struct query_pair {
    char key[32];
    char value[256];
};
/* Takes one "key=value" off *query. Returns 1, 0 at the end, -1 when it is badly encoded or too
 * long. */
int query_next(const char **query, struct query_pair *out);

/* Quality 0..1 of a media type ("image/png") under an Accept header's value; NULL accepts all.
 * *specificity is 0 for a match of all types, 1 for "image" with any subtype, 2 for an exact one.
 */
double accept_quality(const char *accept, const char *type, int *specificity);

/* Whether an Accept-Encoding value wants `coding` ("gzip"), by name or by "*"; NULL does not. */
bool encoding_accepted(const char *accept, const char *coding);

/* Whether an If-None-Match value names the entity tag (quotes included) or is "*". */
bool etag_matches(const char *if_none_match, const char *etag);

/* Checks an X-Request-Id: 1..128 of letters, digits and ._:+/=@- */
bool request_id_valid(const char *id);

/* Host header or forwarded host: letters, digits, '.', '-', '_', ':', '[', ']' only. */
bool host_valid(const char *host);

#endif

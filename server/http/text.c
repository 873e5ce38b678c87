/* Percent-encoding, queries, Accept and entity tags. */
#include "http/text.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool percent_decode(char *dst, size_t capacity, const char *src, size_t n, bool plus)
{
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        int c = (unsigned char)src[i];
        if (c == '%') {
            int high = n - i > 2 ? hex_digit(src[i + 1]) : -1;
            int low = n - i > 2 ? hex_digit(src[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = high << 4 | low;
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        if (c < 0x20 || c == 0x7f || out + 1 >= capacity)
            return false;
        dst[out++] = (char)c;
    }
    if (out >= capacity)
        return false;
    dst[out] = '\0';
    return true;
}

static bool unreserved(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

size_t percent_encode(char *dst, size_t capacity, const char *src)
{
    static const char digits[] = "0123456789ABCDEF";
    size_t n = 0;
    for (; *src != '\0'; src++) {
        unsigned char c = (unsigned char)*src;
        char piece[3] = {*src, 0, 0};
        size_t length = 1;
        if (!unreserved(*src)) {
            piece[0] = '%';
            piece[1] = digits[c >> 4];
            piece[2] = digits[c & 15];
            length = 3;
        }
        for (size_t i = 0; i < length; i++, n++) {
            if (n + 1 < capacity)
                dst[n] = piece[i];
        }
    }
    if (capacity > 0)
        dst[n < capacity ? n : capacity - 1] = '\0';
    return n;
}

int query_next(const char **query, struct query_pair *out)
{
    const char *at = *query;
    while (*at == '&')
        at++;
    if (*at == '\0') {
        *query = at;
        return 0;
    }
    size_t length = strcspn(at, "&");
    const char *equals = memchr(at, '=', length);
    size_t key = equals ? (size_t)(equals - at) : length;
    const char *value = equals ? equals + 1 : at + length;
    *query = at + length;
    if (!percent_decode(out->key, sizeof(out->key), at, key, true) ||
        !percent_decode(out->value, sizeof(out->value), value, (size_t)(at + length - value), true))
        return -1;
    return 1;
}

static const char *skip_blanks(const char *s)
{
    return s + strspn(s, " \t");
}

/* The quality 0..1 that parameters ";...;q=0.5" of length n state; 1 without one. */
static double quality_of(const char *text, size_t n)
{
    double quality = 1;
    for (size_t i = 0; i < n; i++) {
        if (text[i] != ';')
            continue;
        const char *parameter = skip_blanks(text + i + 1);
        if ((parameter[0] == 'q' || parameter[0] == 'Q') && parameter[1] == '=') {
            /* Three decimals at most, so no locale and no overflow. */
            const char *q = parameter + 2;
            double scale = 0.1;
            quality = *q == '1' ? 1 : 0;
            if ((*q == '0' || *q == '1') && q[1] == '.') {
                for (q += 2; *q >= '0' && *q <= '9'; q++, scale /= 10)
                    quality += scale * (*q - '0');
            }
            if (quality > 1)
                quality = 1;
        }
    }
    return quality;
}

/* One element "type/subtype;params;q=0.5" of length n: its quality, its specificity for `type`, or
 * -1 when it does not match. */
static int match_range(const char *range, size_t n, const char *type, double *quality)
{
    size_t name = 0;
    while (name < n && range[name] != ';' && range[name] != ' ' && range[name] != '\t')
        name++;
    const char *slash = strchr(type, '/');
    size_t main_length = (size_t)(slash - type) + 1;
    int specificity = -1;
    if (name == 3 && memcmp(range, "*/*", 3) == 0)
        specificity = 0;
    else if (name == main_length + 1 && range[name - 1] == '*' &&
             strncasecmp(range, type, main_length) == 0)
        specificity = 1;
    else if (name == strlen(type) && strncasecmp(range, type, name) == 0)
        specificity = 2;
    if (specificity < 0)
        return -1;
    *quality = quality_of(range + name, n - name);
    return specificity;
}

double accept_quality(const char *accept, const char *type, int *specificity)
{
    *specificity = 0;
    if (!accept || *skip_blanks(accept) == '\0')
        return 1;
    double best = 0;
    int best_specificity = -1;
    while (*accept != '\0') {
        accept = skip_blanks(accept);
        size_t n = strcspn(accept, ",");
        double quality = 0;
        int match = match_range(accept, n, type, &quality);
        if (match > best_specificity) { /* the most specific range decides (RFC 9110, 12.5.1) */
            best_specificity = match;
            best = quality;
        }
        accept += n + (accept[n] == ',');
    }
    *specificity = best_specificity < 0 ? 0 : best_specificity;
    return best_specificity < 0 ? 0 : best;
}

bool encoding_accepted(const char *accept, const char *coding)
{
    bool accepted = false;
    while (accept && *accept != '\0') {
        accept = skip_blanks(accept);
        size_t n = strcspn(accept, ","), name = strcspn(accept, ",; \t");
        if (name == strlen(coding) && strncasecmp(accept, coding, name) == 0)
            return quality_of(accept + name, n - name) > 0; /* the name decides, not "*" */
        if (name == 1 && *accept == '*')
            accepted = quality_of(accept + name, n - name) > 0;
        accept += n + (accept[n] == ',');
    }
    return accepted;
}

bool etag_matches(const char *if_none_match, const char *etag)
{
    size_t length = strlen(etag);
    const char *at = if_none_match;
    while (at && *at != '\0') {
        at += strspn(at, " \t,");
        if (*at == '*')
            return true;
        if (at[0] == 'W' && at[1] == '/')
            at += 2;
        if (strncmp(at, etag, length) == 0)
            return true;
        if (*at != '"')
            return false;
        at = strchr(at + 1, '"');
        if (at)
            at++;
    }
    return false;
}

static bool only(const char *text, const char *extra, size_t most)
{
    size_t n = 0;
    for (; text[n] != '\0'; n++) {
        char c = text[n];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (n >= most || (!alnum && !strchr(extra, c)))
            return false;
    }
    return n > 0;
}

bool request_id_valid(const char *id)
{
    return only(id, "._:+/=@-", 128);
}

bool host_valid(const char *host)
{
    return only(host, ".-_:[]", 255);
}

/* Networks and X-Forwarded-For. */
#include "http/proxy.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct network {
    unsigned char address[16]; /* IPv4 as ::ffff:a.b.c.d */
    int bits;                  /* of the 128 */
};

struct proxy_trust {
    bool unix_socket;
    int n;
    struct network networks[];
};

static bool parse_address(const char *text, unsigned char out[16], bool *is_v4)
{
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    *is_v4 = inet_pton(AF_INET, text, out + 12) == 1;
    if (*is_v4) {
        memcpy(out, mapped, 12);
        return true;
    }
    return inet_pton(AF_INET6, text, out) == 1;
}

static void write_address(const unsigned char address[16], char out[PROXY_ADDRESS_SIZE])
{
    struct in6_addr v6;
    memcpy(&v6, address, sizeof(v6));
    if (IN6_IS_ADDR_V4MAPPED(&v6))
        inet_ntop(AF_INET, address + 12, out, PROXY_ADDRESS_SIZE);
    else
        inet_ntop(AF_INET6, &v6, out, PROXY_ADDRESS_SIZE);
}

static bool parse_network(const char *text, struct network *out)
{
    char address[PROXY_ADDRESS_SIZE];
    bool is_v4;
    size_t length = strcspn(text, "/");
    if (length >= sizeof(address))
        return false;
    memcpy(address, text, length);
    address[length] = '\0';
    if (!parse_address(address, out->address, &is_v4))
        return false;
    int most = is_v4 ? 32 : 128;
    long bits = most;
    if (text[length] == '/') {
        char *end;
        bits = strtol(text + length + 1, &end, 10);
        if (end == text + length + 1 || *end != '\0' || bits < 0 || bits > most)
            return false;
    }
    out->bits = (int)bits + 128 - most;
    return true;
}

imf_status proxy_trust_create(struct proxy_trust **out, char *const *items, int n,
                              struct imf_error *err)
{
    struct proxy_trust *t = calloc(1, sizeof(*t) + (size_t)n * sizeof(t->networks[0]));
    if (!t) {
        if (err)
            *err = (struct imf_error){IMF_ENOMEM, "out of memory"};
        return IMF_ENOMEM;
    }
    for (int i = 0; i < n; i++) {
        if (strcmp(items[i], "unix") == 0) {
            t->unix_socket = true;
        } else if (parse_network(items[i], &t->networks[t->n])) {
            t->n++;
        } else {
            if (err) {
                err->status = IMF_EINVAL;
                snprintf(err->message, sizeof(err->message),
                         "trusted_proxies: \"%.100s\" is no address, network or \"unix\"",
                         items[i]);
            }
            free(t);
            return IMF_EINVAL;
        }
    }
    *out = t;
    return IMF_OK;
}

void proxy_trust_destroy(struct proxy_trust *t)
{
    free(t);
}

static bool in_network(const struct network *n, const unsigned char address[16])
{
    int bytes = n->bits / 8, rest = n->bits % 8;
    if (memcmp(n->address, address, (size_t)bytes) != 0)
        return false;
    return rest == 0 || ((n->address[bytes] ^ address[bytes]) & (0xff00 >> rest) & 0xff) == 0;
}

bool proxy_trusted(const struct proxy_trust *t, const char *peer)
{
    unsigned char address[16];
    bool is_v4;
    if (strcmp(peer, "unix") == 0)
        return t->unix_socket;
    if (t->n == 0 || !parse_address(peer, address, &is_v4))
        return false;
    for (int i = 0; i < t->n; i++) {
        if (in_network(&t->networks[i], address))
            return true;
    }
    return false;
}

/* Copies the last comma-separated entry of text[0..length) without blanks; brackets and a port are
 * dropped. Returns the length of what comes before it. */
static size_t last_entry(const char *text, size_t length, char out[PROXY_ADDRESS_SIZE])
{
    size_t end = length, begin;
    while (end > 0 && (text[end - 1] == ' ' || text[end - 1] == '\t'))
        end--;
    for (begin = end; begin > 0 && text[begin - 1] != ','; begin--)
        ;
    size_t rest = begin > 0 ? begin - 1 : 0;
    while (begin < end && (text[begin] == ' ' || text[begin] == '\t'))
        begin++;
    if (begin < end && text[begin] == '[') { /* [v6]:port */
        const char *bracket = memchr(text + begin, ']', end - begin);
        begin++;
        end = bracket ? (size_t)(bracket - text) : begin;
    } else { /* v4:port */
        const char *colon = memchr(text + begin, ':', end - begin);
        if (colon && !memchr(colon + 1, ':', (size_t)(text + end - colon - 1)))
            end = (size_t)(colon - text);
    }
    size_t n = end - begin < PROXY_ADDRESS_SIZE ? end - begin : 0;
    memcpy(out, text + begin, n);
    out[n] = '\0';
    return rest;
}

void proxy_client(const struct proxy_trust *t, const char *peer, const char *forwarded_for,
                  char out[PROXY_ADDRESS_SIZE])
{
    snprintf(out, PROXY_ADDRESS_SIZE, "%s", peer);
    size_t length = forwarded_for ? strlen(forwarded_for) : 0;
    while (length > 0 && proxy_trusted(t, out)) {
        char entry[PROXY_ADDRESS_SIZE];
        unsigned char address[16];
        bool is_v4;
        length = last_entry(forwarded_for, length, entry);
        if (!parse_address(entry, address, &is_v4))
            return;
        write_address(address, out);
    }
}

void proxy_group(const char *client, char out[PROXY_ADDRESS_SIZE])
{
    unsigned char address[16];
    bool is_v4;
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (!parse_address(client, address, &is_v4) || memcmp(address, mapped, 12) == 0) {
        snprintf(out, PROXY_ADDRESS_SIZE, "%s", client);
        return;
    }
    memset(address + 8, 0, 8);
    write_address(address, out);
    strcat(out, "/64");
}

/* Heads and chunked bodies by themselves, many times faster than over a socket: however the bytes
 * are cut into pieces the answer is the same, and what is accepted holds what the rest of the server
 * relies on. The first byte chooses head or body and the pieces. */
#include "http/head.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool condition)
{
    if (!condition)
        abort();
}

static bool same(const char *a, const char *b)
{
    return !a || !b ? a == b : strcmp(a, b) == 0;
}

static void check_done(const struct http_head *h, size_t size)
{
    check(h->size <= size && h->size <= HEAD_MAX_SIZE && h->target);
    check(h->target[0] == '/' || (strcmp(h->target, "*") == 0 && h->method == HTTP_OPTIONS));
    check(strlen(h->target) <= HTTP_MAX_URI);
    for (const char *c = h->target; *c != '\0'; c++)
        check((unsigned char)*c > ' ' && (unsigned char)*c < 0x7f && *c != '#');
    check(!(h->chunked && h->headers[HTTP_CONTENT_LENGTH]));
    check(h->http10 || h->headers[HTTP_HOST]);
    if (h->headers[HTTP_HOST])
        check(http_authority_valid(h->headers[HTTP_HOST], strlen(h->headers[HTTP_HOST])));
    for (int i = 0; i < HTTP_HEADER_COUNT; i++) {
        for (const char *c = h->headers[i]; c && *c != '\0'; c++)
            check(*c == '\t' || ((unsigned char)*c >= ' ' && *c != 0x7f));
    }
}

static void heads(const uint8_t *data, size_t size, size_t piece)
{
    struct http_head whole = {0}, cut = {0};
    char *a = malloc(size + 1), *b = malloc(size + 1), *joined;
    if (!a || !b)
        abort();
    memcpy(a, data, size);
    memcpy(b, data, size);
    enum head_result one = http_head_read(&whole, a, size), other = HEAD_MORE;
    for (size_t n = 0; other == HEAD_MORE && n < size;) {
        n = n + piece < size ? n + piece : size;
        other = http_head_read(&cut, b, n);
    }
    check(size == 0 || one == other || (one == HEAD_BAD && other == HEAD_BAD));
    if (one == HEAD_BAD)
        check(whole.status >= 400 && whole.message);
    if (one == HEAD_DONE) {
        check(whole.size == cut.size && whole.length == cut.length &&
              same(whole.target, cut.target));
        for (int i = 0; i < HTTP_HEADER_COUNT; i++)
            check(same(whole.headers[i], cut.headers[i]));
        check(http_head_join(&whole, a, &joined));
        check_done(&whole, size);
        free(joined);
    }
    free(a);
    free(b);
}

/* Digest of a body, and how reading it ended. */
static enum head_result body(const char *bytes, size_t size, size_t piece, uint64_t *digest)
{
    struct http_chunks c = {0};
    enum head_result result = HEAD_MORE;
    for (size_t at = 0; result == HEAD_MORE && at < size;) {
        size_t n = piece < size - at ? piece : size - at, used = 0, data_size;
        const char *data;
        result = http_chunks_read(&c, bytes + at, n, &used, &data, &data_size);
        check(used > 0 && used <= n);
        if (data_size > 0)
            check(data >= bytes + at && data + data_size <= bytes + at + used);
        for (size_t i = 0; i < data_size; i++)
            *digest = (*digest ^ (unsigned char)data[i]) * 1099511628211u;
        at += used;
    }
    check(result != HEAD_BAD || c.message);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t piece = 1 + data[0] / 2;
    if (data[0] & 1) {
        heads(data + 1, size - 1, piece);
        return 0;
    }
    char *bytes = malloc(size);
    if (!bytes)
        return 0;
    memcpy(bytes, data + 1, size - 1);
    uint64_t one = 1, other = 1;
    check(body(bytes, size - 1, size, &one) == body(bytes, size - 1, piece, &other));
    check(one == other);
    free(bytes);
    return 0;
}

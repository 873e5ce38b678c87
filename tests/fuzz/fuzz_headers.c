/* Header values and queries: Accept, If-None-Match, X-Forwarded-For, percent-encoding, class names.
 */
#include "common/utf8.h"
#include "api/classes.h"
#include "http/text.h"
#include "base/json_write.h"
#include "http/proxy.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool condition)
{
    if (!condition)
        abort();
}

static void encodings(const char *text, size_t size)
{
    char decoded[256], encoded[3 * sizeof(decoded) + 1], again[sizeof(decoded)];
    if (percent_decode(decoded, sizeof(decoded), text, size, false)) {
        check(strlen(decoded) <= size);
        check(percent_encode(encoded, sizeof(encoded), decoded) < sizeof(encoded));
        check(percent_decode(again, sizeof(again), encoded, strlen(encoded), false));
        check(strcmp(again, decoded) == 0);
    }
    struct query_pair pair;
    const char *query = text;
    for (size_t i = 0; query_next(&query, &pair) > 0; i++)
        check(i <= size);
    struct buffer b;
    struct json_writer w;
    buffer_init(&b, 1 << 20);
    json_init(&w, &b);
    json_string_n(&w, text, size);
    check(b.failed || imf__utf8_valid(b.data, b.size));
    buffer_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct proxy_trust *trust;
    static struct classes *classes;
    if (!trust) {
        char *items[] = {(char *)"10.0.0.0/8", (char *)"fd00::/7", (char *)"unix"};
        struct imf_error err;
        check(proxy_trust_create(&trust, items, 3, &err) == IMF_OK);
        classes = classes_create_imagenet();
    }
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    size = strlen(text);

    int specificity;
    double quality = accept_quality(text, "image/png", &specificity);
    check(quality >= 0 && quality <= 1 && specificity >= 0 && specificity <= 2);
    (void)encoding_accepted(text, "gzip");
    (void)etag_matches(text, "\"0123\"");
    char client[PROXY_ADDRESS_SIZE];
    proxy_client(trust, "10.1.1.1", text, client);
    check(strlen(client) < sizeof(client) && client[0] != '\0');
    if (request_id_valid(text))
        check(size >= 1 && size <= 128);
    struct class_lookup found;
    if (classes_find(classes, text, size, &found) == CLASS_FOUND)
        check(found.index >= 0 && found.index < CLASSES_IMAGENET);
    int results[20];
    check(classes_search(classes, text, size, results, 20) <= 20);
    encodings(text, size);
    free(text);
    return 0;
}

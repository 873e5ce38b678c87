/* The engine's JSON parser: ends, keeps to the text, and gives strings that are UTF-8. */
#include "fuzz.h"

#include "common/json.h"
#include "common/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    struct imf__json j;
    imf__json_init(&j, text, size);
    size_t events = 0;
    for (;;) {
        enum imf__json_event event = imf__json_next(&j);
        if (event == IMF__JSON_ERROR || event == IMF__JSON_END)
            break;
        if ((event == IMF__JSON_KEY || event == IMF__JSON_STRING) &&
            (strlen(j.string) != j.length || !imf__utf8_valid(j.string, j.length)))
            abort();
        if (++events > size)
            abort();
    }
    /* The judge of whole texts agrees, but for keys that are there twice. */
    struct imf__json_fault fault;
    bool good = imf__json_check((const char *)data, size, &fault);
    if (!fault.twice && good != !j.error)
        abort();
    free(text);
    return 0;
}

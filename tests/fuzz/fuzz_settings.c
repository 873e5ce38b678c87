/* The configuration file and the file of API keys. */
#include "api/keys.h"
#include "settings/settings.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct settings s;
    struct imf_error err = {0};
    if (settings_parse_text(&s, (const char *)data, size, "fuzz", &err) == IMF_OK) {
        for (int i = 0; i < s.models.n; i++) {
            if (s.models.items[i].id[0] == '\0' || !s.models.items[i].precision)
                abort();
        }
        if (s.max_n < 1 || s.max_body < 256 || !s.log_level)
            abort();
        settings_free(&s);
    } else if (err.message[0] == '\0') {
        abort();
    }
    struct keys *keys = NULL;
    memset(&err, 0, sizeof(err));
    if (keys_parse(&keys, (const char *)data, size, "fuzz", &err) == IMF_OK) {
        if (keys_check(keys, "Bearer ") || keys_count(keys) < 1)
            abort();
        keys_free(keys);
    } else if (err.message[0] == '\0') {
        abort();
    }
    return 0;
}

/* json_read.h: the engine's parser judges, cJSON builds. */
#include "base/json_read.h"

cJSON *json_read(const char *text, size_t length, struct imf__json_fault *fault)
{
    if (!imf__json_check(text, length, fault))
        return NULL;
    cJSON *root = cJSON_ParseWithLength(text, length);
    if (!root) /* the text is good, and nested less deeply than cJSON allows */
        *fault = (struct imf__json_fault){.why = "out of memory", .no_memory = true};
    return root;
}

int json_line(const char *text, size_t at)
{
    int line = 1;
    for (size_t i = 0; i < at; i++)
        line += text[i] == '\n';
    return line;
}

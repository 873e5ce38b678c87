/* What --device means; see model_options.h. */
#include "settings/model_options.h"

#include "common/error.h"

#include <stdio.h>
#include <string.h>

static imf_status all_gpus(struct device_list *out, bool needed, struct imf_error *err)
{
    char reason[256] = "";
    int gpus = imf_cuda_device_count(reason, sizeof(reason));
    if (gpus == 0 && needed)
        return imf__fail(err, IMF_EINVAL, "device cuda: %s", reason);
    for (int i = 0; i < gpus && i < MAX_DEVICES; i++)
        snprintf(out->names[out->n++], sizeof(out->names[0]), "cuda:%d", i);
    if (gpus == 0)
        snprintf(out->names[out->n++], sizeof(out->names[0]), "cpu");
    return IMF_OK;
}

imf_status devices_parse(struct device_list *out, const char *text, struct imf_error *err)
{
    out->n = 0;
    if (strcmp(text, "auto") == 0 || strcmp(text, "cuda") == 0)
        return all_gpus(out, text[0] == 'c', err);
    bool fake = strncmp(text, "fake", 4) == 0; /* its options have commas of their own */
    for (const char *at = text; out->n < MAX_DEVICES;) {
        size_t length = fake ? strlen(at) : strcspn(at, ",");
        if (length == 0 || length >= sizeof(out->names[0]) - 5)
            break;
        /* A number alone goes on with GPUs: cuda:0,1. */
        bool number = out->n > 0 && strncmp(out->names[0], "cuda:", 5) == 0 &&
                      strspn(at, "0123456789") == length;
        snprintf(out->names[out->n++], sizeof(out->names[0]), "%s%.*s", number ? "cuda:" : "",
                 (int)length, at);
        at += length;
        if (*at == '\0')
            return IMF_OK;
        at++;
    }
    return imf__fail(err, IMF_EINVAL,
                     "device \"%.60s\": expected names such as cpu or cuda:0,1, at most %d", text,
                     MAX_DEVICES);
}

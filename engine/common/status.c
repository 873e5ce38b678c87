/* Status codes, their names and sentences, and the error sentence a person reads. */
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *imf_status_name(imf_status status)
{
    switch (status) {
#define STATUS_NAME(code, sentence)                                                                \
    case IMF_##code:                                                                               \
        return "IMF_" #code;
        IMF_STATUS_MAP(STATUS_NAME)
#undef STATUS_NAME
    }
    return "unknown status";
}

const char *imf_status_sentence(imf_status status)
{
    switch (status) {
#define STATUS_SENTENCE(code, sentence)                                                            \
    case IMF_##code:                                                                               \
        return sentence;
        IMF_STATUS_MAP(STATUS_SENTENCE)
#undef STATUS_SENTENCE
    }
    return "unknown status";
}

imf_status imf__fail(struct imf_error *err, imf_status status, const char *format, ...)
{
    if (err) {
        err->status = status;
        va_list ap;
        va_start(ap, format);
        vsnprintf(err->message, sizeof(err->message), format, ap);
        va_end(ap);
    }
    return status;
}

static const char *const precision_names[] = {"auto", "fp32", "bf16"};

const char *imf_precision_name(enum imf_precision precision)
{
    return precision_names[precision];
}

bool imf_precision_parse(enum imf_precision *out, const char *name)
{
    for (size_t i = 0; i < sizeof(precision_names) / sizeof(precision_names[0]); i++) {
        if (strcmp(name, precision_names[i]) == 0) {
            *out = (enum imf_precision)i;
            return true;
        }
    }
    return false;
}

const char *imf_version(void)
{
    return IMF_VERSION;
}

/* Names of the formats. */
#include "base/format.h"

static const struct {
    const char *name, *suffix, *type;
} formats[PICTURE_FORMATS] = {
    [PICTURE_PNG] = {"png", "png", "image/png"},
    [PICTURE_JPEG] = {"jpeg", "jpg", "image/jpeg"},
    [PICTURE_WEBP] = {"webp", "webp", "image/webp"},
};

const char *picture_format_name(int format)
{
    return formats[format].name;
}

const char *picture_format_suffix(int format)
{
    return formats[format].suffix;
}

const char *picture_format_type(int format)
{
    return formats[format].type;
}

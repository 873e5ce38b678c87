/* The formats of pictures' files, and how a picture is written in one. */
#ifndef FORMAT_H
#define FORMAT_H

#include <stdint.h>

enum picture_format { PICTURE_PNG, PICTURE_JPEG, PICTURE_WEBP, PICTURE_FORMATS };

/* Equal ones give equal bytes. */
struct picture_encoding {
    uint8_t format;  /* enum picture_format */
    uint8_t quality; /* 0..100 of JPEG and WebP; 0 for PNG, which loses nothing */
};

const char *picture_format_name(int format);   /* "png", "jpeg", "webp": as requests call it */
const char *picture_format_suffix(int format); /* "png", "jpg", "webp" */
const char *picture_format_type(int format);   /* "image/png" ... */

#endif

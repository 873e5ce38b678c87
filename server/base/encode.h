/* A picture's file: PNG, JPEG or WebP, deterministic: bytes depend on nothing but the arguments and
 * the versions of the libraries. */
#ifndef ENCODE_H
#define ENCODE_H

#include "base/blob.h"
#include "base/format.h"
#include "base/metadata.h"
#include "imf.h"

struct picture_encoder; /* opaque; scratch memory, used by one thread at a time */

IMF_MUST_CHECK imf_status picture_encoder_create(struct picture_encoder **out, int png_level);
void picture_encoder_destroy(struct picture_encoder *e); /* NULL is fine */
/* rgb is (height, width, 3). text may be NULL. The blob comes with one reference. IMF_EINVAL for a
 * picture of no or absurd size (over 16383 on a side). */
IMF_MUST_CHECK imf_status picture_encode(struct picture_encoder *e,
                                         const struct picture_encoding *how, const uint8_t *rgb,
                                         int width, int height, const struct picture_text *text,
                                         struct blob **out);

/* Names the bytes that the libraries behind a format write here: a hash of the file of one test
 * picture. Other releases of them write other files of the same pixels. */
IMF_MUST_CHECK imf_status picture_encoder_print(struct picture_encoder *e, int format,
                                                uint64_t *out);

/* The same file without its text, as a blob of its own: no second encoding. Takes nothing, gives a
 * reference; NULL when out of memory. */
struct blob *picture_without_text(const struct blob *file, int format);

#endif

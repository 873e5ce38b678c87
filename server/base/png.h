/* PNG encoding: 8-bit RGB with text chunks, deterministic: no timestamps, and bytes that depend on
 * nothing but the arguments and the library versions. Any thread. */
#ifndef PNG_ENCODE_H
#define PNG_ENCODE_H

#include "base/blob.h"
#include "base/metadata.h"
#include "imf.h"

struct png_encoder; /* opaque; a deflate state and scratch rows, used by one thread at a time */

/* level 0: stored, no filter. 1: Paeth filter, Huffman codes and runs; the server's default, and what
 * commands write. 9: filters chosen row by row, libdeflate's search for the smallest file. There is
 * no other. */
IMF_MUST_CHECK imf_status png_encoder_create(struct png_encoder **out, int level);
void png_encoder_destroy(struct png_encoder *e); /* NULL is fine */
/* rgb is (height, width, 3). text may be NULL; each part of it is a chunk: tEXt when it is ASCII,
 * else iTXt (UTF-8). The blob comes with one reference. IMF_EINVAL for a picture of no or absurd
 * size (over 16384 on a side). */
IMF_MUST_CHECK imf_status png_encode(struct png_encoder *e, const uint8_t *rgb, int width,
                                     int height, const struct picture_text *text,
                                     struct blob **out);

#endif

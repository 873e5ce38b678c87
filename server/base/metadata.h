/* What a picture says of itself: the text that image tools show, the request as JSON, and that a
 * trained model made it, in the words of the IPTC. PNG, JPEG and WebP carry the same three. */
#ifndef METADATA_H
#define METADATA_H

#include <stddef.h>
#include <stdint.h>

/* "" leaves a part out. */
struct picture_text {
    char parameters[512]; /* PNG text "parameters", EXIF UserComment: the form image tools read */
    char imfd[512];       /* PNG text "imfd", EXIF ImageDescription: JSON */
    char software[64];    /* "imfd 1.2": with it goes the XMP packet that names a trained model */
};

enum { METADATA_MAX_EXIF = 2048, METADATA_MAX_XMP = 1024 };

/* An EXIF block (TIFF, little-endian) with what is there; returns its size, 0 when nothing is. */
size_t metadata_exif(const struct picture_text *text, uint8_t out[METADATA_MAX_EXIF]);
/* An XMP packet with Iptc4xmpExt:DigitalSourceType trainedAlgorithmicMedia; returns its size, 0
 * without `software`. */
size_t metadata_xmp(const struct picture_text *text, char out[METADATA_MAX_XMP]);

#endif

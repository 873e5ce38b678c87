/* EXIF 2.3 and XMP blocks, as few entries as carry the text. A signed C2PA manifest would be one
 * block more, beside these two: chunk caBX of PNG, APP11 of JPEG, RIFF chunk C2PA of WebP. */
#include "base/metadata.h"

#include <stdio.h>
#include <string.h>

/* ---- EXIF ------------------------------------------------------------------------------------ */

enum {
    TAG_DESCRIPTION = 0x010e,
    TAG_SOFTWARE = 0x0131,
    TAG_EXIF = 0x8769,
    TAG_COMMENT = 0x9286,
    TYPE_ASCII = 2,
    TYPE_LONG = 4,
    TYPE_UNDEFINED = 7,
};

struct tiff {
    uint8_t *base;
    size_t entry, values; /* where the next of each goes */
};

static void put_u16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void put_u32(uint8_t *p, size_t v)
{
    put_u16(p, v & 0xffff);
    put_u16(p + 2, v >> 16 & 0xffff);
}

static void put_entry(struct tiff *t, unsigned tag, unsigned type, size_t count, size_t value)
{
    uint8_t *p = t->base + t->entry;
    put_u16(p, tag);
    put_u16(p + 2, type);
    put_u32(p + 4, count);
    put_u32(p + 8, value);
    t->entry += 12;
}

static void put_bytes(struct tiff *t, const void *bytes, size_t n)
{
    memcpy(t->base + t->values, bytes, n);
    t->values += n;
}

/* Values of more than 4 bytes lie apart, at an even place. */
static size_t align(struct tiff *t)
{
    if (t->values % 2 != 0)
        t->base[t->values++] = 0;
    return t->values;
}

static void put_ascii(struct tiff *t, unsigned tag, const char *text)
{
    size_t n = strlen(text) + 1;
    if (n <= 1)
        return;
    put_entry(t, tag, TYPE_ASCII, n, align(t));
    put_bytes(t, text, n);
}

/* UTF-8 to UTF-16 in the block's byte order; what is not UTF-8 becomes U+FFFD. */
static size_t put_utf16(uint8_t *out, const char *text)
{
    size_t n = 0;
    for (const unsigned char *s = (const unsigned char *)text; *s != 0;) {
        unsigned length = *s < 0x80 ? 1 : *s >= 0xf0 ? 4 : *s >= 0xe0 ? 3 : *s >= 0xc0 ? 2 : 0;
        uint32_t c = length == 1 ? *s : length == 0 ? 0xfffd : *s & (0x7fu >> length);
        unsigned used = 1;
        for (; used < length && (s[used] & 0xc0) == 0x80; used++)
            c = c << 6 | (s[used] & 0x3f);
        if (used < length)
            c = 0xfffd;
        s += used;
        if (c >= 0x10000) {
            put_u16(out + n, 0xd800 + ((c - 0x10000) >> 10 & 0x3ff));
            n += 2;
            c = 0xdc00 + ((c - 0x10000) & 0x3ff);
        }
        put_u16(out + n, c);
        n += 2;
    }
    return n;
}

/* The comment begins with the name of its code, 8 bytes. */
static void put_comment(struct tiff *t, const char *text)
{
    uint8_t utf16[2 * sizeof(((struct picture_text *)0)->parameters)];
    size_t ascii = 0, n = strlen(text);
    while (ascii < n && (unsigned char)text[ascii] < 0x80)
        ascii++;
    const void *bytes = text;
    if (ascii < n) {
        n = put_utf16(utf16, text);
        bytes = utf16;
    }
    put_entry(t, TAG_COMMENT, TYPE_UNDEFINED, n + 8, align(t));
    put_bytes(t, bytes == utf16 ? "UNICODE" : "ASCII\0\0", 8);
    put_bytes(t, bytes, n);
}

size_t metadata_exif(const struct picture_text *text, uint8_t out[METADATA_MAX_EXIF])
{
    unsigned count =
        (text->imfd[0] != '\0') + (text->software[0] != '\0') + (text->parameters[0] != '\0');
    if (count == 0)
        return 0;
    memcpy(out, "II*\0\x08\0\0\0", 8);
    put_u16(out + 8, count); /* the comment's place holds the folder that it lies in */
    struct tiff t = {out, 10, 10 + 12 * (size_t)count + 4};
    put_ascii(&t, TAG_DESCRIPTION, text->imfd);
    put_ascii(&t, TAG_SOFTWARE, text->software);
    if (text->parameters[0] != '\0') {
        size_t folder = align(&t);
        put_entry(&t, TAG_EXIF, TYPE_LONG, 1, folder);
        put_u32(out + t.entry, 0);
        put_u16(out + folder, 1);
        t.entry = folder + 2;
        t.values = folder + 2 + 12 + 4;
        put_comment(&t, text->parameters);
    }
    put_u32(out + t.entry, 0); /* no folder follows */
    return t.values;
}

/* ---- XMP ------------------------------------------------------------------------------------- */

size_t metadata_xmp(const struct picture_text *text, char out[METADATA_MAX_XMP])
{
    static const char packet[] =
        "<?xpacket begin=\"\xef\xbb\xbf\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>"
        "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">"
        "<rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">"
        "<rdf:Description rdf:about=\"\" xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" "
        "xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\" "
        "xmp:CreatorTool=\"%s\" Iptc4xmpExt:DigitalSourceType="
        "\"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia\"/>"
        "</rdf:RDF></x:xmpmeta><?xpacket end=\"r\"?>";
    /* The tool is a name of ours: nothing in it needs escaping. */
    if (text->software[0] == '\0' || strpbrk(text->software, "<>&\""))
        return 0;
    return (size_t)snprintf(out, METADATA_MAX_XMP, packet, text->software);
}

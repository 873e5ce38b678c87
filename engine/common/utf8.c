/* utf8.h: by the table of RFC 3629. */
#include "common/utf8.h"

size_t imf__utf8_length(const char *text, size_t left)
{
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || left < n)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    }
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
        (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
        return 0;
    return n;
}

bool imf__utf8_valid(const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t length = imf__utf8_length(text + i, n - i);
        if (!length)
            return false;
        i += length;
    }
    return true;
}

size_t imf__utf8_put(char *dst, unsigned code)
{
    if (code < 0x80) {
        dst[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        dst[0] = (char)(0xC0 | code >> 6);
        dst[1] = (char)(0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        dst[0] = (char)(0xE0 | code >> 12);
        dst[1] = (char)(0x80 | (code >> 6 & 63));
        dst[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    dst[0] = (char)(0xF0 | code >> 18);
    dst[1] = (char)(0x80 | (code >> 12 & 63));
    dst[2] = (char)(0x80 | (code >> 6 & 63));
    dst[3] = (char)(0x80 | (code & 63));
    return 4;
}

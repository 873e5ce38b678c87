/* Chunked bodies (RFC 9112, 7.1): sizes in hexadecimal, extensions skipped, trailer fields checked
 * and dropped. */
#include "http/head.h"

#include <string.h>

enum state {
    SIZE,
    AFTER_SIZE, /* blanks, which only an extension may follow */
    EXTENSION,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER_BEGIN,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    END_LF,
    END,
};

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool text_char(char c)
{
    return c == '\t' || ((unsigned char)c >= ' ' && c != 0x7f);
}

static bool name_char(char c)
{
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

/* Takes a byte of a chunk's first line. */
static bool size_line(struct http_chunks *c, char byte)
{
    int digit = hex_digit(byte);
    if (c->state == SIZE && digit >= 0) {
        c->digits++;
        c->left = c->left << 4 | (uint64_t)digit;
        return c->left >> 48 == 0; /* no body is that large */
    }
    if (c->digits == 0)
        return false;
    if (byte == ';')
        c->state = EXTENSION;
    else if (byte == '\r' && c->state != AFTER_SIZE)
        c->state = SIZE_LF;
    else if (c->state == EXTENSION)
        return text_char(byte);
    else if (byte == ' ' || byte == '\t')
        c->state = AFTER_SIZE;
    else
        return false;
    return true;
}

static bool trailer(struct http_chunks *c, char byte)
{
    switch (c->state) {
    case TRAILER_BEGIN:
        c->state = byte == '\r' ? END_LF : TRAILER_NAME;
        return byte == '\r' || name_char(byte);
    case TRAILER_NAME:
        if (byte == ':')
            c->state = TRAILER_VALUE;
        return byte == ':' || name_char(byte);
    case TRAILER_VALUE:
        if (byte == '\r')
            c->state = TRAILER_LF;
        return byte == '\r' || text_char(byte);
    case TRAILER_LF:
        c->state = TRAILER_BEGIN;
        return byte == '\n';
    default: /* END_LF */
        c->state = END;
        return byte == '\n';
    }
}

static enum head_result bad(struct http_chunks *c, const char *message)
{
    c->message = message;
    return HEAD_BAD;
}

enum head_result http_chunks_read(struct http_chunks *c, const char *bytes, size_t n, size_t *used,
                                  const char **data, size_t *data_size)
{
    size_t at = 0;
    *data_size = 0;
    *data = bytes;
    while (at < n && c->state != END) {
        if (c->state == DATA) {
            size_t size = c->left < n - at ? (size_t)c->left : n - at;
            *data = bytes + at;
            *data_size = size;
            *used = at + size;
            c->left -= size;
            if (c->left == 0)
                c->state = DATA_CR;
            return HEAD_MORE;
        }
        char byte = bytes[at++];
        *used = at;
        if (c->state <= EXTENSION) {
            if (++c->line > CHUNK_MAX_LINE)
                return bad(c, "a chunk's first line is too long");
            if (!size_line(c, byte))
                return bad(c, "a chunk's size is not a hexadecimal number");
        } else if (c->state == SIZE_LF) {
            if (byte != '\n')
                return bad(c, "a chunk's first line ends wrongly");
            c->state = c->left > 0 ? DATA : TRAILER_BEGIN;
        } else if (c->state <= DATA_LF) {
            if (byte != (c->state == DATA_CR ? '\r' : '\n'))
                return bad(c, "a chunk is longer than its size");
            c->state = c->state == DATA_CR ? DATA_LF : SIZE;
            c->line = c->digits = 0;
        } else {
            if (++c->trailer > CHUNK_MAX_TRAILER)
                return bad(c, "the trailer of the body is too long");
            if (!trailer(c, byte))
                return bad(c, "the trailer of the body is malformed");
        }
    }
    *used = at;
    return c->state == END ? HEAD_DONE : HEAD_MORE;
}

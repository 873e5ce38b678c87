/* The one reading of a request's head and of a chunked body, byte by byte as RFC 9112 has it. What
 * two readers could see differently is refused, and nothing behind this file reads a client's
 * framing again. All input is hostile; nothing here does input or output. */
#ifndef HTTP_HEAD_H
#define HTTP_HEAD_H

#include "http/server.h"

enum {
    HEAD_MAX_SIZE = 32768, /* of request line and fields together; longer: 431 */
    HEAD_MAX_METHOD = 32,
    CHUNK_MAX_LINE = 512,    /* a chunk's size with its extensions */
    CHUNK_MAX_TRAILER = 4096 /* of the fields behind the last chunk together */
};

enum head_result { HEAD_MORE, HEAD_DONE, HEAD_BAD };

/* A head being read. All zero before the first byte. Texts lie in the bytes read, which are
 * changed: names and values are terminated by NUL. */
struct http_head {
    enum http_method method;
    const char *method_name, *target; /* NULL until the request line is complete; a path, or "*" */
    const char *host;                 /* an absolute target's, or NULL */
    const char *headers[HTTP_HEADER_COUNT];
    bool http10, close, keep_alive, chunked, expects_continue;
    uint64_t length;      /* Content-Length; UINT64_MAX when it is larger than that */
    int status;           /* with HEAD_BAD: what to answer */
    const char *message;  /* and why */
    size_t size;          /* of the lines read so far */
    size_t scanned;       /* no line ends before this */
    size_t fields;        /* where the fields begin */
    unsigned blank_lines; /* before the request line */
    uint32_t repeated;    /* set of enum http_header: lists on several lines */
};

/* Reads on in bytes[0..n), which are the bytes of the call before and more. HEAD_DONE: the head is
 * bytes[0..size). Bytes must not move between calls. */
enum head_result http_head_read(struct http_head *h, char *bytes, size_t n);
/* Joins lists given on several lines into *joined (malloc; NULL where there are none). False when
 * out of memory. */
bool http_head_join(struct http_head *h, char *bytes, char **joined);
/* How an authority (host, with or without a port) may look, in Host and in an absolute target. */
bool http_authority_valid(const char *text, size_t n);

/* A chunked body. All zero before the first byte. */
struct http_chunks {
    int state;
    uint64_t left; /* of the chunk being read */
    unsigned line, trailer, digits;
    const char *message; /* with HEAD_BAD */
};

/* Takes bytes[0..n) up to the end of one piece of data: *data and *data_size are set (0 bytes:
 * none) and *used says how many bytes were taken. HEAD_DONE: the body and its trailer are over. */
enum head_result http_chunks_read(struct http_chunks *c, const char *bytes, size_t n, size_t *used,
                                  const char **data, size_t *data_size);

#endif

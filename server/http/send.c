/* Errors that are answered past libmicrohttpd, straight to the socket: requests that time out, and
 * those it refuses itself (no Host, a header over 32 KiB, a Content-Length that is no number).
 *
 * Unusual: this file defines MHD_queue_response. The library calls that function through its
 * dynamic symbol for the error pages of its own, which are HTML and, in 0.9.75, begin with the
 * header twice; the definition in the program takes precedence. It writes our JSON instead and
 * fails the call, upon which the library closes the connection. Our own replies go to the library's
 * function (http__queue_response). Were the library linked in a way that binds its calls to itself,
 * its pages would come back and nothing else change. */
#include "http/internal.h"

#include <assert.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

typedef enum MHD_Result queue_function(struct MHD_Connection *mhd, unsigned int status,
                                       struct MHD_Response *response);

enum MHD_Result http__queue_response(struct MHD_Connection *mhd, unsigned status,
                                     struct MHD_Response *response)
{
    static queue_function *real; /* the loop thread is the only caller */
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "MHD_queue_response");
    return real != NULL ? real(mhd, status, response) : MHD_NO;
}

static const struct {
    int status;
    const char *reason, *code, *message;
} errors[] = {
    {400, "Bad Request", "bad_request", "the request is malformed"},
    {408, "Request Timeout", "request_timeout", "the request took too long to arrive"},
    {413, "Content Too Large", "body_too_large", "the request does not fit in memory"},
    {414, "URI Too Long", "uri_too_long", "the request target is too long"},
    {431, "Request Header Fields Too Large", "header_too_large", "the header is too long"},
    {500, "Internal Server Error", "out_of_memory", "out of memory"},
    {501, "Not Implemented", "not_implemented", "the request asks for something unknown"},
    {503, "Service Unavailable", "overloaded", "out of memory"},
    {505, "HTTP Version Not Supported", "http_version", "HTTP/1.0 and HTTP/1.1 are spoken here"},
};

void http__send_error(struct http_conn *c, int status)
{
    size_t e = 0;
    while (e < sizeof(errors) / sizeof(errors[0]) && errors[e].status != status)
        e++;
    if (e == sizeof(errors) / sizeof(errors[0]))
        e = 0;
    char body[300], text[700];
    const char *type = errors[e].status >= 500 ? "server_error" : "invalid_request_error";
    int n =
        snprintf(body, sizeof(body),
                 "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}",
                 errors[e].message, type, errors[e].code);
    int size = snprintf(text, sizeof(text),
                        "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                        "Connection: close\r\n\r\n%s",
                        errors[e].status, errors[e].reason, n, body);
    assert(n > 0 && size > 0 && (size_t)size < sizeof(text));
    if (c->request != NULL)
        c->request->raw_status = errors[e].status;
    if (send(c->fd, text, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return; /* it is being closed anyway */
    /* Unread bytes would turn the close into a reset, which may overtake the reply. */
    char scratch[16384];
    shutdown(c->fd, SHUT_WR);
    for (int i = 0; i < 16 && recv(c->fd, scratch, sizeof(scratch), MSG_DONTWAIT) > 0; i++)
        ;
}

/* Called by libmicrohttpd only. */
enum MHD_Result MHD_queue_response(struct MHD_Connection *mhd, unsigned int status,
                                   struct MHD_Response *response)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_conn *c = info != NULL ? info->socket_context : NULL;
    if (c == NULL || status < 400)
        return http__queue_response(mhd, status, response);
    http__send_error(c, (int)status);
    return MHD_NO;
}

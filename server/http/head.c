/* Request heads: the request line, the fields, and what they say about the connection and the
 * body. Each line is judged as soon as it is complete, each byte is looked at a bounded number of
 * times however it arrives. */
#include "http/head.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What several lines of one field mean. */
enum repeat {
    ONE,   /* an error: two readers might each see another one */
    FIRST, /* the first counts */
    LIST,  /* one list */
};

static const struct {
    const char *name;
    enum repeat repeat;
} known[HTTP_HEADER_COUNT] = {
    [HTTP_ACCEPT] = {"Accept", LIST},
    [HTTP_ACCEPT_ENCODING] = {"Accept-Encoding", LIST},
    [HTTP_ACCESS_CONTROL_REQUEST_HEADERS] = {"Access-Control-Request-Headers", LIST},
    [HTTP_ACCESS_CONTROL_REQUEST_METHOD] = {"Access-Control-Request-Method", ONE},
    [HTTP_AUTHORIZATION] = {"Authorization", ONE},
    [HTTP_CONNECTION] = {"Connection", FIRST}, /* every line of it is read where it stands */
    [HTTP_CONTENT_ENCODING] = {"Content-Encoding", LIST},
    [HTTP_CONTENT_LENGTH] = {"Content-Length", ONE},
    [HTTP_CONTENT_TYPE] = {"Content-Type", ONE},
    [HTTP_EXPECT] = {"Expect", ONE},
    [HTTP_HOST] = {"Host", ONE},
    [HTTP_IF_NONE_MATCH] = {"If-None-Match", LIST},
    [HTTP_INFERENCE_HEADER_CONTENT_LENGTH] = {"Inference-Header-Content-Length", ONE},
    [HTTP_ORIGIN] = {"Origin", ONE},
    [HTTP_REFERER] = {"Referer", ONE},
    [HTTP_SEC_FETCH_SITE] = {"Sec-Fetch-Site", ONE},
    [HTTP_SEC_FETCH_USER] = {"Sec-Fetch-User", FIRST},
    [HTTP_TRANSFER_ENCODING] = {"Transfer-Encoding", ONE},
    [HTTP_X_FORWARDED_FOR] = {"X-Forwarded-For", LIST},
    [HTTP_X_FORWARDED_HOST] = {"X-Forwarded-Host", FIRST},
    [HTTP_X_FORWARDED_PREFIX] = {"X-Forwarded-Prefix", FIRST},
    [HTTP_X_FORWARDED_PROTO] = {"X-Forwarded-Proto", FIRST},
    [HTTP_X_GATEWAY_DESTINATION_ENDPOINT] = {"X-Gateway-Destination-Endpoint", FIRST},
    [HTTP_X_LLM_D_INFERENCE_FAIRNESS_ID] = {"X-Llm-D-Inference-Fairness-Id", FIRST},
    [HTTP_X_LLM_D_INFERENCE_OBJECTIVE] = {"X-Llm-D-Inference-Objective", FIRST},
    [HTTP_X_REQUEST_ID] = {"X-Request-Id", FIRST},
};

const char *http_method_name(enum http_method method)
{
    static const char *const names[] = {"GET", "HEAD", "POST", "OPTIONS", "other"};
    return names[method];
}

static enum http_method method_of(const char *name)
{
    for (int m = 0; m < HTTP_OTHER; m++) {
        if (strcmp(name, http_method_name((enum http_method)m)) == 0)
            return (enum http_method)m;
    }
    return HTTP_OTHER;
}

static bool alphanumeric(unsigned char c)
{
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

static bool token_char(unsigned char c)
{
    return alphanumeric(c) || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

/* A blank, a tab, or something that prints; bytes above 127 are let through in values. */
static bool value_char(unsigned char c)
{
    return c == '\t' || (c >= ' ' && c != 0x7f);
}

static enum head_result bad(struct http_head *h, int status, const char *message)
{
    h->status = status;
    h->message = message;
    return HEAD_BAD;
}

static bool digits_only(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
    }
    return n > 0;
}

bool http_authority_valid(const char *text, size_t n)
{
    size_t host = 0;
    if (n > 255)
        return false;
    if (n > 0 && text[0] == '[') { /* an IPv6 address */
        for (host = 1; host < n && text[host] != ']'; host++) {
            char c = text[host];
            if (!(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'f') && c != ':' &&
                c != '.')
                return false;
        }
        if (host < 3 || host == n)
            return false;
        host++;
    } else {
        while (host < n && (alphanumeric((unsigned char)text[host]) ||
                            (text[host] != '\0' && strchr("-._~", text[host]))))
            host++;
    }
    if (host == 0)
        return false;
    if (host == n)
        return true;
    size_t port = n - host - 1;
    return text[host] == ':' && port <= 5 && (port == 0 || digits_only(text + host + 1, port));
}

/* ---- The request line ------------------------------------------------------------------------ */

/* A path, an absolute URL, or "*" of OPTIONS. The authority of a URL takes the place of Host. */
static enum head_result check_target(struct http_head *h, char *target, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)target[i];
        if (c == ' ')
            return bad(h, 400, "the request target holds a blank; it must be sent as %20");
        if (c <= ' ' || c >= 0x7f || c == '#')
            return bad(h, 400, "the request target holds a byte that must be percent-encoded");
    }
    if (n == 0)
        return bad(h, 400, "the request line has no target");
    if (target[0] == '/' || (n == 1 && target[0] == '*' && h->method == HTTP_OPTIONS))
        return HEAD_DONE;
    size_t scheme = strncasecmp(target, "http://", 7) == 0    ? 7
                    : strncasecmp(target, "https://", 8) == 0 ? 8
                                                              : 0;
    size_t authority = scheme > 0 ? strcspn(target + scheme, "/?") : 0;
    if (scheme == 0 || !http_authority_valid(target + scheme, authority))
        return bad(h, 400, "the request target is neither a path nor a URL of this server");
    char *path = target + scheme + authority;
    char *host = memmove(target + scheme - 2, target + scheme, authority);
    host[authority] = '\0';
    if (*path != '/') /* "http://host?query"; the move made room */
        *--path = '/';
    h->host = host;
    h->target = path;
    return HEAD_DONE;
}

static enum head_result read_request_line(struct http_head *h, char *line, size_t n)
{
    size_t method = 0;
    while (method < n && token_char((unsigned char)line[method]))
        method++;
    if (method == 0 || method == n || line[method] != ' ')
        return bad(h, 400, "the request line does not begin with a method and a blank");
    if (method > HEAD_MAX_METHOD)
        return bad(h, 400, "the method's name is too long");
    line[method] = '\0';
    h->method_name = line;
    h->method = method_of(line);
    char *target = line + method + 1;
    size_t rest = n - method - 1, version = rest;
    while (version > 0 && target[version - 1] != ' ')
        version--;
    if (version == 0) {
        if (rest > HTTP_MAX_URI)
            return bad(h, 414, "the request target is too long");
        return bad(h, 400, "the request line has no version");
    }
    size_t length = version - 1;
    if (length > HTTP_MAX_URI)
        return bad(h, 414, "the request target is too long");
    const char *name = target + version;
    size_t name_length = rest - version;
    target[length] = '\0'; /* also what comes with an error is a text */
    h->target = target;
    if (name_length != 8 || memcmp(name, "HTTP/", 5) != 0 || name[6] != '.' ||
        !digits_only(name + 5, 1) || !digits_only(name + 7, 1))
        return bad(h, 400, "the request line does not end with a version of HTTP");
    if (name[5] != '1')
        return bad(h, 505, "HTTP/1.0 and HTTP/1.1 are spoken here");
    h->http10 = name[7] == '0';
    return check_target(h, target, length);
}

/* ---- Fields ---------------------------------------------------------------------------------- */

/* Whether a list of tokens has this one. */
static bool has_token(const char *list, const char *token)
{
    size_t length = strlen(token);
    while (list && *list != '\0') {
        list += strspn(list, " \t,");
        size_t n = strcspn(list, ","), end = n;
        while (end > 0 && (list[end - 1] == ' ' || list[end - 1] == '\t'))
            end--;
        if (end == length && strncasecmp(list, token, length) == 0)
            return true;
        list += n;
    }
    return false;
}

static enum head_result read_field(struct http_head *h, char *line, size_t n)
{
    if (line[0] == ' ' || line[0] == '\t')
        return bad(h, 400, "a field goes on on the next line, which HTTP no longer knows");
    size_t name = 0;
    while (name < n && token_char((unsigned char)line[name]))
        name++;
    if (name == 0 || name == n || line[name] != ':')
        return bad(h, 400, "a header field has no name, or a byte in it that names cannot have");
    size_t begin = name + 1, end = n;
    for (size_t i = begin; i < end; i++) {
        if (!value_char((unsigned char)line[i]))
            return bad(h, 400, "a header field holds a control character");
    }
    while (begin < end && (line[begin] == ' ' || line[begin] == '\t'))
        begin++;
    while (end > begin && (line[end - 1] == ' ' || line[end - 1] == '\t'))
        end--;
    line[name] = '\0';
    line[end] = '\0'; /* at most the CR */
    for (int i = 0; i < HTTP_HEADER_COUNT; i++) {
        if ((line[0] | 32) != (known[i].name[0] | 32) || strcasecmp(line, known[i].name) != 0)
            continue;
        if (i == HTTP_CONNECTION) {
            h->close |= has_token(line + begin, "close");
            h->keep_alive |= has_token(line + begin, "keep-alive");
        }
        if (!h->headers[i])
            h->headers[i] = line + begin;
        else if (known[i].repeat == ONE)
            return bad(h, 400, "a header that may be given once is repeated");
        else if (known[i].repeat == LIST)
            h->repeated |= 1u << i;
        break;
    }
    return HEAD_DONE;
}

bool http_head_join(struct http_head *h, char *bytes, char **joined)
{
    *joined = NULL;
    if (h->repeated == 0)
        return true;
    /* A value comes with a name, which is longer than ", " and the NUL. */
    char *out = malloc(h->size);
    if (!out)
        return false;
    *joined = out;
    for (int i = 0; i < HTTP_HEADER_COUNT; i++) {
        if ((h->repeated & 1u << i) == 0)
            continue;
        h->headers[i] = out;
        for (char *line = bytes + h->fields; line < bytes + h->size;
             line = (char *)memchr(line, '\n', (size_t)(bytes + h->size - line)) + 1) {
            if (strcasecmp(line, known[i].name) != 0)
                continue;
            const char *value = line + strlen(line) + 1;
            value += strspn(value, " \t");
            if (out != h->headers[i])
                out = stpcpy(out, ", ");
            out = stpcpy(out, value);
        }
        out++;
    }
    return true;
}

static uint64_t parse_length(const char *text)
{
    uint64_t value = 0;
    for (; *text != '\0'; text++) {
        uint64_t digit = (uint64_t)(*text - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return UINT64_MAX;
        value = value * 10 + digit;
    }
    return value;
}

static enum head_result end_of_head(struct http_head *h)
{
    const char *length = h->headers[HTTP_CONTENT_LENGTH];
    const char *coding = h->headers[HTTP_TRANSFER_ENCODING];
    const char *expect = h->headers[HTTP_EXPECT], *host = h->headers[HTTP_HOST];
    if (!host && !h->http10)
        return bad(h, 400, "the header Host is missing");
    if (host && !http_authority_valid(host, strlen(host)))
        return bad(h, 400, "the header Host names no host");
    if (coding && strcasecmp(coding, "chunked") != 0)
        return bad(h, 400, "the only Transfer-Encoding supported is chunked");
    if (coding && length)
        return bad(h, 400, "Content-Length and Transfer-Encoding exclude each other");
    if (coding && h->http10)
        return bad(h, 400, "HTTP/1.0 has no Transfer-Encoding");
    if (length && !digits_only(length, strlen(length)))
        return bad(h, 400, "Content-Length is not a number");
    if (expect && strcasecmp(expect, "100-continue") != 0)
        return bad(h, 400, "the only Expect supported is 100-continue");
    if (h->host) /* an absolute target's */
        h->headers[HTTP_HOST] = h->host;
    h->chunked = coding != NULL;
    h->length = length ? parse_length(length) : 0;
    h->expects_continue = expect && !h->http10;
    return HEAD_DONE;
}

/* What can be said of a line that is not complete yet. */
static enum head_result check_partial(struct http_head *h, const char *line, size_t n)
{
    if (h->fields == 0 && n > 0 && line[0] != '\r' && !token_char((unsigned char)line[0]))
        return bad(h, 400, "the request line does not begin with a method");
    if (h->fields == 0 && n > HEAD_MAX_METHOD + HTTP_MAX_URI + 16)
        return bad(h, 414, "the request target is too long");
    if (h->size + n > HEAD_MAX_SIZE)
        return bad(h, 431, "the header is longer than 32 KiB");
    return HEAD_MORE;
}

enum head_result http_head_read(struct http_head *h, char *bytes, size_t n)
{
    for (;;) {
        char *line = bytes + h->size;
        char *end = memchr(bytes + h->scanned, '\n', n - h->scanned);
        if (!end) {
            h->scanned = n;
            return check_partial(h, line, n - h->size);
        }
        size_t length = (size_t)(end - line);
        if (h->size + length + 1 > HEAD_MAX_SIZE)
            return bad(h, 431, "the header is longer than 32 KiB");
        if (length == 0 || end[-1] != '\r')
            return bad(h, 400, "a line ends without a carriage return");
        length--;
        h->size = h->scanned = (size_t)(end + 1 - bytes);
        enum head_result result = HEAD_DONE;
        if (h->fields > 0 && length == 0)
            return end_of_head(h);
        if (h->fields > 0) {
            result = read_field(h, line, length);
        } else if (length > 0) {
            result = read_request_line(h, line, length);
            h->fields = h->size;
        } else if (++h->blank_lines > 1) { /* one is tolerated: some clients end a body with it */
            return bad(h, 400, "the request line is empty");
        }
        if (result == HEAD_BAD)
            return result;
    }
}

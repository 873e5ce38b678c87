/* Log lines, gathered in memory and written once per turn of the loop. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Lines that cannot be written (a full disk, a pipe nobody reads) are dropped beyond this. */
enum { MAX_PENDING = 1 << 20, FLUSH_AT = 1 << 15 };

struct log {
    char *path; /* "" for stderr */
    int fd;
    bool json;
    enum log_level level;
    struct buffer pending;
    time_t stamp_second;
    char stamp[32]; /* "2026-01-31T12:00:00", of stamp_second */
};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

static const char *const level_columns[] = {" debug ", " info  ", " warn  ", " error "};

enum log_level log_level_parse(const char *name)
{
    for (int i = 0; i < 4; i++) {
        if (strcmp(level_names[i], name) == 0)
            return (enum log_level)i;
    }
    return LOG_INFO;
}

static int open_file(const char *path)
{
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
}

static imf_status fail(struct imf_error *err, const char *path)
{
    if (err != NULL) {
        err->status = IMF_EIO;
        snprintf(err->message, sizeof(err->message), "log_file %.300s: %s", path, strerror(errno));
    }
    return IMF_EIO;
}

imf_status log_create(struct log **out, const char *path, bool json, enum log_level level,
                      struct imf_error *err)
{
    struct log *l = calloc(1, sizeof(*l));
    if (l == NULL || (l->path = strdup(path)) == NULL) {
        free(l);
        errno = ENOMEM;
        return fail(err, path);
    }
    l->fd = path[0] != '\0' ? open_file(path) : STDERR_FILENO;
    if (l->fd < 0) {
        imf_status status = fail(err, path);
        free(l->path);
        free(l);
        return status;
    }
    l->json = json;
    l->level = level;
    buffer_init(&l->pending, MAX_PENDING);
    *out = l;
    return IMF_OK;
}

void log_destroy(struct log *l)
{
    if (l == NULL)
        return;
    log_flush(l);
    if (l->fd != STDERR_FILENO)
        close(l->fd);
    buffer_free(&l->pending);
    free(l->path);
    free(l);
}

imf_status log_reopen(struct log *l, struct imf_error *err)
{
    log_flush(l);
    if (l->path[0] == '\0')
        return IMF_OK;
    int fd = open_file(l->path);
    if (fd < 0)
        return fail(err, l->path);
    close(l->fd);
    l->fd = fd;
    return IMF_OK;
}

bool log_enabled(const struct log *l, enum log_level level)
{
    return level >= l->level;
}

void log_flush(struct log *l)
{
    size_t done = 0;
    while (done < l->pending.size) {
        ssize_t n = write(l->fd, l->pending.data + done, l->pending.size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; /* dropped: a server that cannot log goes on serving */
        done += (size_t)n;
    }
    l->pending.size = 0;
    l->pending.failed = false;
}

/* "2026-01-31T12:00:00.123Z" */
static void append_time(struct log *l)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec != l->stamp_second || l->stamp[0] == '\0') {
        struct tm tm;
        gmtime_r(&now.tv_sec, &tm);
        strftime(l->stamp, sizeof(l->stamp), "%Y-%m-%dT%H:%M:%S", &tm);
        l->stamp_second = now.tv_sec;
    }
    long ms = now.tv_nsec / 1000000;
    char fraction[] = {'.', (char)('0' + ms / 100), (char)('0' + ms / 10 % 10),
                       (char)('0' + ms % 10), 'Z'};
    buffer_append_text(&l->pending, l->stamp);
    buffer_append(&l->pending, fraction, sizeof(fraction));
}

/* Starts a line; in JSON its object stays open in w. */
static void begin(struct log *l, struct json_writer *w, enum log_level level)
{
    if (!l->json) {
        append_time(l);
        buffer_append_text(&l->pending, level_columns[level]);
        return;
    }
    json_init(w, &l->pending);
    json_object_begin(w);
    json_key(w, "time");
    buffer_append(&l->pending, "\"", 1);
    append_time(l);
    buffer_append(&l->pending, "\"", 1);
    w->after_key = false;
    json_key(w, "level");
    json_string(w, level_names[level]);
}

static void end(struct log *l, struct json_writer *w)
{
    if (l->json)
        json_object_end(w);
    buffer_append(&l->pending, "\n", 1);
    if (l->pending.size >= FLUSH_AT || l->pending.failed)
        log_flush(l);
}

/* Text from outside must not forge lines or move the terminal's cursor. */
static void append_safe(struct buffer *b, const char *text)
{
    const char *plain = text;
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c >= 0x20 && c != 0x7f)
            continue;
        buffer_append(b, plain, (size_t)(text - plain));
        buffer_printf(b, "\\x%02x", c);
        plain = text + 1;
    }
    buffer_append(b, plain, (size_t)(text - plain));
}

void log_write(struct log *l, enum log_level level, const char *format, ...)
{
    if (!log_enabled(l, level))
        return;
    char message[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    struct json_writer w;
    begin(l, &w, level);
    if (l->json) {
        json_key(&w, "message");
        json_string(&w, message);
    } else {
        append_safe(&l->pending, message);
    }
    end(l, &w);
}

static void access_json(struct json_writer *w, const struct log_request *r)
{
    const struct {
        const char *key;
        double ms;
    } times[] = {{"queue_ms", r->queue_ms},
                 {"denoise_ms", r->denoise_ms},
                 {"decode_ms", r->decode_ms},
                 {"encode_ms", r->encode_ms}};
    json_key(w, "request_id");
    json_string(w, r->id);
    json_key(w, "client");
    json_string(w, r->client);
    if (r->key[0] != '\0') {
        json_key(w, "key");
        json_string(w, r->key);
    }
    json_key(w, "method");
    json_string(w, r->method);
    json_key(w, "uri");
    json_string(w, r->uri);
    json_key(w, "status");
    json_int(w, r->status);
    json_key(w, "bytes");
    json_u64(w, r->bytes);
    json_key(w, "duration_ms");
    json_fixed(w, r->ms, 3);
    if (r->n == 0)
        return;
    json_key(w, "n");
    json_int(w, r->n);
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        json_key(w, times[i].key);
        json_fixed(w, times[i].ms, 3);
    }
    if (r->cancelled != NULL) {
        json_key(w, "cancelled");
        json_string(w, r->cancelled);
    }
}

static void append_word(struct buffer *b, const char *word)
{
    buffer_append_text(b, word);
    buffer_append(b, " ", 1);
}

/* Milliseconds with three decimals. */
static void append_ms(struct buffer *b, double ms)
{
    uint64_t us = ms > 0 ? (uint64_t)(ms * 1e3 + 0.5) : 0;
    char fraction[] = {'.', (char)('0' + us / 100 % 10), (char)('0' + us / 10 % 10),
                       (char)('0' + us % 10)};
    buffer_append_u64(b, us / 1000);
    buffer_append(b, fraction, sizeof(fraction));
}

void log_access(struct log *l, const struct log_request *r)
{
    if (!log_enabled(l, LOG_INFO))
        return;
    struct json_writer w;
    begin(l, &w, LOG_INFO);
    if (l->json) {
        access_json(&w, r);
    } else {
        struct buffer *b = &l->pending;
        /* Every request passes here: no printf. */
        append_word(b, r->client);
        if (r->key[0] != '\0')
            append_word(b, r->key);
        append_word(b, r->method);
        append_safe(b, r->uri);
        buffer_append(b, " ", 1);
        buffer_append_u64(b, (uint64_t)r->status);
        buffer_append(b, " ", 1);
        buffer_append_u64(b, r->bytes);
        buffer_append(b, " ", 1);
        append_ms(b, r->ms);
        buffer_append(b, "ms ", 3);
        buffer_append_text(b, r->id);
        if (r->n > 0)
            buffer_printf(b, " n=%d queue=%.3f denoise=%.3f decode=%.3f encode=%.3f", r->n,
                          r->queue_ms, r->denoise_ms, r->decode_ms, r->encode_ms);
        if (r->cancelled != NULL)
            buffer_printf(b, " cancelled=%s", r->cancelled);
    }
    end(l, &w);
}

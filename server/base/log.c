/* Log lines, as text or JSON; log_writer.c brings them out. */
#include "base/log.h"
#include "base/log_writer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct log {
    struct log_writer *writer;
    bool json;
    enum log_level level;
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

imf_status log_create(struct log **out, const char *path, bool json, enum log_level level,
                      struct imf_error *err)
{
    struct log *l = calloc(1, sizeof(*l));
    if (!l) {
        if (err)
            *err = (struct imf_error){IMF_ENOMEM, "out of memory for the log"};
        return IMF_ENOMEM;
    }
    imf_status status = log_writer_create(&l->writer, path, err);
    if (status != IMF_OK) {
        free(l);
        return status;
    }
    l->json = json;
    l->level = level;
    *out = l;
    return IMF_OK;
}

void log_destroy(struct log *l)
{
    if (!l)
        return;
    log_writer_destroy(l->writer);
    free(l);
}

imf_status log_reopen(struct log *l, struct imf_error *err)
{
    return log_writer_reopen(l->writer, err);
}

bool log_enabled(const struct log *l, enum log_level level)
{
    return level >= l->level;
}

void log_flush(struct log *l)
{
    log_writer_wake(l->writer);
}

bool log_wait(struct log *l, int ms)
{
    return log_writer_wait(l->writer, ms);
}

uint64_t log_lost(const struct log *l)
{
    return log_writer_lost(l->writer);
}

/* "2026-01-31T12:00:00.123Z" */
static void append_time(struct log *l, struct buffer *b)
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
    buffer_append_text(b, l->stamp);
    buffer_append(b, fraction, sizeof(fraction));
}

/* Starts a line; in JSON its object stays open in w. */
static struct buffer *begin(struct log *l, struct json_writer *w, enum log_level level)
{
    struct buffer *b = log_writer_begin(l->writer);
    if (!l->json) {
        append_time(l, b);
        buffer_append_text(b, level_columns[level]);
        return b;
    }
    json_init(w, b);
    json_object_begin(w);
    json_key(w, "time");
    buffer_append(b, "\"", 1);
    append_time(l, b);
    buffer_append(b, "\"", 1);
    w->after_key = false;
    json_key(w, "level");
    json_string(w, level_names[level]);
    return b;
}

static void end(struct log *l, struct buffer *b, struct json_writer *w)
{
    if (l->json)
        json_object_end(w);
    buffer_append(b, "\n", 1);
    log_writer_end(l->writer);
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

static void write_message(struct log *l, enum log_level level, const char *message)
{
    struct json_writer w;
    struct buffer *b = begin(l, &w, level);
    if (l->json) {
        json_key(&w, "message");
        json_string(&w, message);
    } else {
        append_safe(b, message);
    }
    end(l, b, &w);
}

/* Before the first line that can be written again: how many could not. */
static void tell_lost(struct log *l)
{
    char why[128], message[200];
    uint64_t lost = log_writer_untold(l->writer, why);
    if (lost > 0) {
        snprintf(message, sizeof(message),
                 "%llu lines of this log have been lost since the start: %s",
                 (unsigned long long)lost, why);
        write_message(l, LOG_WARN, message);
    }
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
    tell_lost(l);
    write_message(l, level, message);
}

/* Words that few requests have. */
enum { MAX_NOTE = 100 }; /* bytes of each that are written */
static const struct {
    const char *key;
    size_t offset;
} notes[] = {{"refused", offsetof(struct log_request, refused)},
             {"endpoint", offsetof(struct log_request, endpoint)},
             {"objective", offsetof(struct log_request, objective)},
             {"fairness", offsetof(struct log_request, fairness)}};
enum { N_NOTES = sizeof(notes) / sizeof(notes[0]) };

static const char *note(const struct log_request *r, size_t i)
{
    return *(const char *const *)((const char *)r + notes[i].offset);
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
    for (size_t i = 0; i < N_NOTES; i++) {
        const char *text = note(r, i);
        if (text) {
            json_key(w, notes[i].key);
            json_string_n(w, text, strnlen(text, MAX_NOTE));
        }
    }
    if (r->n == 0)
        return;
    json_key(w, "n");
    json_int(w, r->n);
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        json_key(w, times[i].key);
        json_fixed(w, times[i].ms, 3);
    }
    if (r->cancelled) {
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
    tell_lost(l);
    struct json_writer w;
    struct buffer *b = begin(l, &w, LOG_INFO);
    if (l->json) {
        access_json(&w, r);
    } else {
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
        for (size_t i = 0; i < N_NOTES; i++) {
            const char *text = note(r, i);
            if (!text)
                continue;
            char cut[MAX_NOTE + 1];
            snprintf(cut, sizeof(cut), "%s", text);
            buffer_printf(b, " %s=", notes[i].key);
            append_safe(b, cut);
        }
        if (r->cancelled)
            buffer_printf(b, " cancelled=%s", r->cancelled);
    }
    end(l, b, &w);
}

/* The table of spellings; see spellings.h. A name is a list of parts with dots between them.
 *
 *   1. parts that only wrap a module are left out, wherever they stand
 *   2. a leading "net" is left out
 *   3. parts that were renamed from one version to another get one name
 *   4. taesd as diffusers stores it counts its layers from the first convolution, itself from the
 *      clamp before it: decoder.layers.0.weight is 1.weight */
#include "files/spellings.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* DataParallel, torch.compile, FSDP, activation checkpointing. */
static const char *const wrappers[] = {"module", "_orig_mod", "_fsdp_wrapped_module",
                                       "_checkpoint_wrapped_module"};

static const struct {
    const char *from, *to; /* `to` is not longer than `from` */
} renamed[] = {
    {"_flax_linear", "linear"}, /* the release of iMF; FD-Loss writes "linear" */
    {"_flax_embedding", "embedding"},
    {"attn_scale", "attn_gate"}, /* before the release: gate */
    {"mlp_scale", "mlp_gate"},
    {"query", "q"}, /* attention in diffusers, old and new */
    {"key", "k"},
    {"value", "v"},
    {"to_q", "q"},
    {"to_k", "k"},
    {"to_v", "v"},
    {"proj_attn", "to_out.0"},
};

struct part {
    const char *at;
    size_t length;
};

static bool is(struct part p, const char *text)
{
    return strlen(text) == p.length && memcmp(p.at, text, p.length) == 0;
}

static bool wraps(struct part p)
{
    for (size_t i = 0; i < sizeof(wrappers) / sizeof(wrappers[0]); i++) {
        if (is(p, wrappers[i]))
            return true;
    }
    return false;
}

const char *imf__spelling_wrapper(int i)
{
    return i < (int)(sizeof(wrappers) / sizeof(wrappers[0])) ? wrappers[i] : NULL;
}

unsigned imf__spelling_wrappers_in(const char *name)
{
    unsigned found = 0;
    for (const char *at = name; at; at = strchr(at, '.') ? strchr(at, '.') + 1 : NULL) {
        struct part p = {at, strcspn(at, ".")};
        for (int i = 0; imf__spelling_wrapper(i); i++)
            found |= is(p, wrappers[i]) ? 1u << i : 0;
    }
    return found;
}

static struct part spelled(struct part p)
{
    for (size_t i = 0; i < sizeof(renamed) / sizeof(renamed[0]); i++) {
        if (is(p, renamed[i].from))
            return (struct part){renamed[i].to, strlen(renamed[i].to)};
    }
    return p;
}

/* Rule 4, in place. */
static size_t count_from_clamp(char *name, size_t length)
{
    static const char prefix[] = "decoder.layers.";
    char *rest, number[24];
    size_t n = sizeof(prefix) - 1;
    if (strncmp(name, prefix, n) != 0 || !isdigit((unsigned char)name[n]))
        return length;
    long layer = strtol(name + n, &rest, 10);
    if (layer > 999 || *rest != '.')
        return length;
    int digits = snprintf(number, sizeof(number), "%ld", layer + 1);
    size_t tail = strlen(rest);
    memmove(name + digits, rest, tail + 1);
    memcpy(name, number, (size_t)digits);
    return (size_t)digits + tail;
}

size_t imf__spelling(char *dst, const char *name)
{
    size_t n = 0;
    const char *end = name + strlen(name);
    for (const char *at = name; at <= end;) {
        const char *dot = memchr(at, '.', (size_t)(end - at));
        struct part p = {at, (size_t)((dot ? dot : end) - at)};
        at = p.at + p.length + 1;
        if (wraps(p) || (n == 0 && is(p, "net")))
            continue;
        p = spelled(p);
        if (n)
            dst[n++] = '.';
        memcpy(dst + n, p.at, p.length);
        n += p.length;
    }
    dst[n] = '\0';
    return count_from_clamp(dst, n);
}

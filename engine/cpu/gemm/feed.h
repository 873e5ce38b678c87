/* Normalises pixels for the products to come while the tiles multiply (gemm.h). Included by the
 * kernels. */
#ifndef IMF__CPU_GEMM_FEED_H
#define IMF__CPU_GEMM_FEED_H

#include "cpu/gemm/gemm.h"
#include "common/vector.h"

/* A copy of what is to do; `left` of the run that is being done. */
struct feeding {
    struct gemm_feed f;
    int left;
};

static inline struct feeding feeding_of(const struct gemm_job *job)
{
    struct feeding s = {.left = 0};
    if (job->feed) {
        s.f = *job->feed;
        s.left = s.f.pixels;
    }
    return s;
}

/* Up to `pixels` of them. */
static inline __attribute__((always_inline)) void feed(struct feeding *s, int pixels)
{
    for (int i = 0; i < pixels && s->f.planes > 0; i++) {
        vf x = load_bf16(s->f.src) * load_f32(s->f.a) + load_f32(s->f.b);
        vf y = load_bf16(s->f.src + LANES) * load_f32(s->f.a + LANES) + load_f32(s->f.b + LANES);
        if (s->f.silu) {
            x = silu_rough(x);
            y = silu_rough(y);
        }
        store_bf16_two(s->f.dst, x, y);
        s->f.src += GEMM_PANEL;
        s->f.dst += GEMM_PANEL;
        if (--s->left == 0) {
            s->f.planes--;
            s->left = s->f.pixels;
            s->f.src += s->f.src_gap;
            s->f.dst += s->f.dst_gap;
            s->f.a += GEMM_PANEL;
            s->f.b += GEMM_PANEL;
        }
    }
}

static inline void feed_rest(struct feeding *s)
{
    while (s->f.planes > 0)
        feed(s, s->left);
}

#endif

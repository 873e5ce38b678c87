/* Attention of a single wide head: the sd-vae's middle block, 1024 positions of 512 channels.
 *
 * K and V are packed once into strips of STRIP columns, each of which lies in one piece:
 *     kp (Tp / STRIP, C, STRIP), vp (Cp / STRIP, Tp, STRIP), padded with zeros.
 * Then BLOCK query rows at a time go through scores (BLOCK, Tp), softmax and values; the (T, T)
 * scores are never whole. A row's sums run in one order, whatever the number of threads: a general
 * matrix product would not promise that. */
#include "cpu/attention.h"
#include "cpu/attention_tiles.h"
#include "cpu/gemm/gemm.h"

#define BLOCK 48 /* a multiple of TILE_R; so many rows share a strip while it is cached */
#define STRIP (VALUE_V * NATIVE)

struct single {
    size_t T, C, Tp, Cp;
    float *kp, *vp;
};

static struct single single_of(int T, int C, void *packed)
{
    struct single s = {.T = (size_t)T, .C = (size_t)C};
    s.Tp = round_up(s.T, 64); /* of every STRIP, and of the softmax's vectors */
    s.Cp = round_up(s.C, STRIP);
    s.kp = packed;
    s.vp = s.kp + s.C * s.Tp;
    return s;
}

static struct imf__single_sizes sizes(int T, int C)
{
    struct single s = single_of(T, C, NULL);
    return (struct imf__single_sizes){
        .packed = (s.C * s.Tp + s.Tp * s.Cp) * sizeof(float),
        .work = BLOCK * (s.C + s.Tp) * sizeof(float),
        .strips = (int)((s.Tp + s.Cp) / STRIP),
        .blocks = (int)((s.T + BLOCK - 1) / BLOCK),
    };
}

static void pack(void *packed, const float *k, const float *v, int T, int C, int strip)
{
    struct single s = single_of(T, C, packed);
    size_t first = (size_t)strip * STRIP;
    if (first < s.Tp) {
        float *to = s.kp + first * s.C;
        for (size_t j = 0; j < STRIP; j++)
            for (size_t c = 0; c < s.C; c++)
                to[c * STRIP + j] = first + j < s.T ? k[(first + j) * s.C + c] : 0.0f;
        return;
    }
    first -= s.Tp;
    float *to = s.vp + first * s.Tp;
    for (size_t t = 0; t < s.Tp; t++)
        for (size_t j = 0; j < STRIP; j++)
            to[t * STRIP + j] = t < s.T && first + j < s.C ? v[t * s.C + first + j] : 0.0f;
}

/* The values of `rows` rows from their exponentials e (BLOCK, Tp). */
static void weigh(const struct single *s, float *dst, const float *e, const float *inv, size_t rows)
{
    float o[TILE_R * STRIP];
    for (size_t c = 0; c < s->Cp; c += STRIP) {
        size_t columns = s->C - c < STRIP ? s->C - c : STRIP;
        for (size_t i = 0; i < rows; i += TILE_R) {
            tile_f32_values(o, STRIP, e + i * s->Tp, s->Tp, s->vp + c * s->Tp, STRIP, s->Tp);
            for (size_t r = 0; r < TILE_R && i + r < rows; r++)
                for (size_t j = 0; j < columns; j++)
                    dst[(i + r) * s->C + c + j] = o[r * STRIP + j] * inv[i + r];
        }
    }
}

static void attend(float *dst, const float *q, void *packed, int T, int C, int block, void *work)
{
    struct single s = single_of(T, C, packed);
    size_t t0 = (size_t)block * BLOCK, rows = s.T - t0 < BLOCK ? s.T - t0 : BLOCK;
    float *scaled = work, *e = scaled + BLOCK * s.C, inv[BLOCK];
    float scale = 1.0f / sqrtf((float)C);
    for (size_t i = 0; i < BLOCK * s.C; i++)
        scaled[i] = i < rows * s.C ? q[t0 * s.C + i] * scale : 0.0f;
    for (size_t t = 0; t < s.Tp; t += STRIP)
        for (size_t i = 0; i < BLOCK; i += TILE_R)
            tile_f32_values(e + i * s.Tp + t, s.Tp, scaled + i * s.C, s.C, s.kp + t * s.C, STRIP,
                            s.C);
    exponentials(e, inv, BLOCK, T, s.Tp);
    weigh(&s, dst + t0 * s.C, e, inv, rows);
}

static void probabilities(uint16_t *dst, float *scores, int rows, int T, size_t keys)
{
    float inv[GEMM_PANEL];
    exponentials(scores, inv, rows, T, keys);
    for (size_t i = 0; i < (size_t)rows; i++)
        for (size_t t = 0; t < keys; t += LANES)
            store_bf16(dst + gemm_place(i, t, keys / 32), load_f32(scores + i * keys + t) * inv[i]);
}

const struct imf__single_attention IMF__ISA_NAME(imf__single_attention) = {sizes, pack, attend,
                                                                           probabilities};

/* AMX tile instructions, or the same arithmetic in plain C where IMF__TILES_EMULATED is set: the
 * kernels over them give the same bits either way.
 *
 * gcc 12's intrinsics do not tell the compiler that they touch memory (a configuration may be read
 * before it is stored), so these are written out. */
#ifndef IMF__CPU_TILES_H
#define IMF__CPU_TILES_H

#include <stdint.h>
#include <string.h>

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} __attribute__((packed));

#if defined(IMF__TILES_EMULATED)

static _Thread_local uint8_t tile_memory[8][16][64];
static _Thread_local size_t tile_rows[8];

static inline float tile_flushed(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    if (!(u & 0x7F800000))
        u &= 0x80000000;
    memcpy(&x, &u, sizeof(u));
    return x;
}

static inline float tile_number(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof(f));
    return tile_flushed(f);
}

/* Even and odd elements are summed apart, by fused multiply-adds in float32, to nearest even,
 * denormals flushed; then added to each other and to what the tile held. */
static __attribute__((noinline)) void tile_dot(int c, int a, int b)
{
    for (size_t m = 0; m < tile_rows[c]; m++) {
        float sum[2][16] = {{0}}, held[16];
        uint16_t x[32], y[32];
        memcpy(x, tile_memory[a][m], 64);
        for (int k = 0; k < 16; k++) {
            memcpy(y, tile_memory[b][k], 64);
            for (int n = 0; n < 16; n++)
                for (int odd = 0; odd < 2; odd++)
                    sum[odd][n] = tile_flushed(__builtin_fmaf(
                        tile_number(x[2 * k + odd]), tile_number(y[2 * n + odd]), sum[odd][n]));
        }
        memcpy(held, tile_memory[c][m], 64);
        for (int n = 0; n < 16; n++)
            held[n] = tile_flushed(tile_flushed(held[n]) + tile_flushed(sum[0][n] + sum[1][n]));
        memcpy(tile_memory[c][m], held, 64);
    }
}

static __attribute__((noinline)) void tile_move(int t, void *p, size_t stride, int store)
{
    for (size_t r = 0; r < tile_rows[t]; r++) {
        if (store)
            memcpy((char *)p + r * stride, tile_memory[t][r], 64);
        else
            memcpy(tile_memory[t][r], (const char *)p + r * stride, 64);
    }
}

#define TILE_LOAD(t, p, stride) tile_move(t, (void *)(p), stride, 0)
#define TILE_STREAM(t, p, stride) TILE_LOAD(t, p, stride)
#define TILE_STORE(t, p, stride) tile_move(t, p, stride, 1)
#define TILE_ZERO(t) memset(tile_memory[t], 0, sizeof(tile_memory[t]))
#define TILE_DOT(c, a, b) tile_dot(c, a, b)
static inline void tiles_configure(const struct tile_config *c)
{
    memset(tile_memory, 0, sizeof(tile_memory));
    for (int i = 0; i < 8; i++)
        tile_rows[i] = c->rows[i];
}
static inline void tiles_end(void)
{
}

#else

#define TILE_LOAD(t, p, stride)                                                                    \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((size_t)(stride)) : "memory")
/* Past the first-level cache, which keeps what it has. */
#define TILE_STREAM(t, p, stride)                                                                  \
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #t ::"r"(p), "r"((size_t)(stride)) : "memory")
#define TILE_STORE(t, p, stride)                                                                   \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((size_t)(stride))           \
                     : "memor"                                                                     \
                       "y")
#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define TILE_DOT(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

static inline void tiles_configure(const struct tile_config *c)
{
    __asm__ volatile("ldtilecfg %0" ::"m"(*c) : "memory");
}

static inline void tiles_end(void)
{
    __asm__ volatile("tilerelease" ::: "memory");
}

#endif

/* Tiles of 64 bytes a row: `rows` (1 to 32) rows of A and of the sums, in 4 above 5, 0 above 2, and
 * 1 above 3; B's, 6 and 7, are whole. Without rows for them 2, 3 and 5 are not to be touched. */
static inline void tiles_begin(int rows)
{
    struct tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        const int lower = i == 2 || i == 3 || i == 5, left = lower ? rows - 16 : rows;
        c.colsb[i] = 64;
        c.rows[i] = (uint8_t)(i >= 6 || left > 16 ? 16 : left < 1 ? 1 : left);
    }
    tiles_configure(&c);
}
#endif

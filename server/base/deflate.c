/* Deflate (RFC 1951) with Huffman codes and runs only. Input is cut in blocks, each with its own
 * codes: one pass counts, a second one writes. Both find the same runs because they share
 * run_length(). A distance of 1 is the only one used, so the distance code has one symbol. */
#include "base/deflate.h"

#include <assert.h>
#include <libdeflate.h>
#include <stdbool.h>
#include <string.h>

/* Big enough that a block's code lengths (about 100 bytes) do not count, small enough to follow
 * the picture: sky and grass want different codes. */
#define BLOCK_SIZE ((size_t)48 * 1024)

#define LITERALS 286 /* 256 bytes, end of block, 29 length codes */
#define END_OF_BLOCK 256
#define CODE_LENGTHS 19
/* 14 instead of the 15 allowed: four codes and the 7 bits left over fit in 64 bits. */
#define MAX_BITS 14
#define RUN_MIN 8 /* shorter runs cost as much as their literals */
#define RUN_MAX 258

size_t deflate_runs_bound(size_t size)
{
    /* 14 bits a byte, and 400 bytes of code lengths a block. */
    return size / 8 * 14 + 16 + (size / BLOCK_SIZE + 1) * 400 + 16;
}

/* ---- Codes ----------------------------------------------------------------------------------- */

/* Code of a symbol as it goes into the stream (bit-reversed), and its length. */
struct code {
    uint16_t bits;
    uint8_t length; /* 0: the symbol does not occur */
};

/* After lengths over the limit were cut to it, the code has too many words: Kraft's sum is over 1.
 * Each round takes one unit (2^-limit) off the sum: a code of the limit's length and the longest
 * one below it become two codes one longer than the latter. The sum ends at exactly 1, which
 * decoders insist on. */
static void limit_lengths(uint32_t *of_length, int limit)
{
    uint32_t kraft = 0;
    for (int l = 1; l <= limit; l++)
        kraft += of_length[l] << (limit - l);
    for (; kraft > 1u << limit; kraft--) {
        int l = limit - 1;
        while (of_length[l] == 0)
            l--;
        of_length[limit]--;
        of_length[l]--;
        of_length[l + 1] += 2;
    }
}

/* Lengths 1..limit for the symbols that occur, from a Huffman tree made by merging a sorted list
 * with the queue of its own sums. */
static void assign_lengths(uint8_t *length, const uint32_t *count, int symbols, int limit)
{
    struct node {
        uint64_t weight;
        int parent;
        int symbol;
    } node[2 * LITERALS];
    int leaves = 0;
    memset(length, 0, (size_t)symbols);
    for (int s = 0; s < symbols; s++) {
        if (count[s] == 0)
            continue;
        /* Insertion by weight; equal weights keep symbol order, so the result is defined. */
        int at = leaves++;
        for (; at > 0 && node[at - 1].weight > count[s]; at--)
            node[at] = node[at - 1];
        node[at] = (struct node){.weight = count[s], .symbol = s};
    }
    if (leaves == 0)
        return;
    if (leaves == 1) {
        length[node[0].symbol] = 1;
        return;
    }
    int leaf = 0, inner = leaves, end = leaves;
    for (; end < 2 * leaves - 1; end++) {
        uint64_t weight = 0;
        for (int k = 0; k < 2; k++) {
            int least = leaf < leaves && (inner == end || node[leaf].weight <= node[inner].weight)
                            ? leaf++
                            : inner++;
            weight += node[least].weight;
            node[least].parent = end;
        }
        node[end].weight = weight;
    }
    int depth[2 * LITERALS];
    uint32_t of_length[LITERALS] = {0};
    depth[end - 1] = 0;
    for (int i = end - 2; i >= 0; i--) {
        depth[i] = depth[node[i].parent] + 1;
        if (i < leaves)
            of_length[depth[i] < limit ? depth[i] : limit]++;
    }
    limit_lengths(of_length, limit);
    /* Rarest symbols first, so they get the longest codes. */
    for (int i = 0, l = limit; i < leaves; i++) {
        while (of_length[l] == 0)
            l--;
        of_length[l]--;
        length[node[i].symbol] = (uint8_t)l;
    }
}

/* Canonical codes of RFC 1951 section 3.2.2. */
static void assign_codes(struct code *code, const uint8_t *length, int symbols)
{
    uint32_t of_length[16] = {0}, next[16] = {0};
    for (int s = 0; s < symbols; s++)
        of_length[length[s]]++;
    of_length[0] = 0;
    for (int l = 1; l < 16; l++)
        next[l] = (next[l - 1] + of_length[l - 1]) << 1;
    for (int s = 0; s < symbols; s++) {
        uint32_t forward = length[s] == 0 ? 0 : next[length[s]]++, reversed = 0;
        for (int b = 0; b < length[s]; b++)
            reversed |= (forward >> b & 1) << (length[s] - 1 - b);
        code[s] = (struct code){.bits = (uint16_t)reversed, .length = length[s]};
    }
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* How many of the bytes from p on equal p[-1]; 0 when fewer than RUN_MIN. */
static size_t run_length(const uint8_t *p, const uint8_t *end)
{
    if (end - p < RUN_MIN || load64(p) != load64(p - 1))
        return 0;
    size_t most = (size_t)(end - p) < RUN_MAX ? (size_t)(end - p) : RUN_MAX, n = 8;
    while (n < most && p[n] == p[-1])
        n++;
    return n;
}

/* Length code of a run: symbol, number of extra bits, their value (RFC 1951 section 3.2.5). */
static int length_symbol(size_t run, int *extra_bits, uint32_t *extra)
{
    assert(run >= RUN_MIN && run <= RUN_MAX);
    *extra_bits = 0;
    *extra = 0;
    if (run == 258)
        return 285;
    uint32_t v = (uint32_t)run - 3;
    if (v < 8)
        return 257 + (int)v;
    int log = 31 - __builtin_clz(v);
    *extra_bits = log - 2;
    *extra = v & ((1u << (log - 2)) - 1);
    return 257 + 4 * (log - 1) + (int)(v >> (log - 2) & 3);
}

/* ---- Writing --------------------------------------------------------------------------------- */

struct writer {
    uint8_t *p;
    uint64_t bits;
    int count; /* < 8 after flush */
};

static inline void put(struct writer *w, uint32_t bits, int count)
{
    w->bits |= (uint64_t)bits << w->count;
    w->count += count;
}

/* At most 56 bits may be put between two flushes. Writes 8 bytes, keeps those that are full. */
static inline void flush(struct writer *w)
{
    uint64_t little = w->bits;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    little = __builtin_bswap64(little);
#endif
    memcpy(w->p, &little, 8);
    w->p += w->count >> 3;
    w->bits >>= w->count & ~7;
    w->count &= 7;
}

static inline void put_code(struct writer *w, struct code c)
{
    put(w, c.bits, c.length);
}

/* The block's header: code lengths, themselves Huffman-coded. Runs of zeros are the only ones
 * shortened (symbol 18 and 17): unused symbols come in long stretches, others hardly repeat. */
static void put_lengths(struct writer *w, const uint8_t *literal_length)
{
    static const uint8_t order[CODE_LENGTHS] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                11, 4,  12, 3, 13, 2, 14, 1, 15};
    uint8_t all[LITERALS + 1], symbol[LITERALS + 1], extra[LITERALS + 1];
    uint32_t count[CODE_LENGTHS] = {0};
    int n = 0;
    memcpy(all, literal_length, LITERALS);
    all[LITERALS] = 1; /* the one distance code: distance 1 */
    for (int i = 0; i < LITERALS + 1; n++) {
        int zeros = 0;
        while (i + zeros < LITERALS + 1 && all[i + zeros] == 0 && zeros < 138)
            zeros++;
        symbol[n] = zeros >= 11 ? 18 : zeros >= 3 ? 17 : all[i];
        extra[n] = (uint8_t)(zeros >= 11 ? zeros - 11 : zeros >= 3 ? zeros - 3 : 0);
        i += zeros >= 3 ? zeros : 1;
        count[symbol[n]]++;
    }
    uint8_t length[CODE_LENGTHS];
    struct code code[CODE_LENGTHS];
    assign_lengths(length, count, CODE_LENGTHS, 7);
    assign_codes(code, length, CODE_LENGTHS);

    put(w, LITERALS - 257, 5);
    put(w, 1 - 1, 5);
    put(w, CODE_LENGTHS - 4, 4);
    flush(w);
    for (int i = 0; i < CODE_LENGTHS; i++) {
        put(w, length[order[i]], 3);
        flush(w);
    }
    for (int i = 0; i < n; i++) {
        put_code(w, code[symbol[i]]);
        if (symbol[i] >= 17)
            put(w, extra[i], symbol[i] == 18 ? 7 : 3);
        flush(w);
    }
}

/* Counts the block's symbols. Four tables, because neighbours are often equal and a processor
 * waits when it adds to the counter it has just stored. */
static void count_block(uint32_t *count, const uint8_t *p, const uint8_t *end, bool first)
{
    uint32_t part[4][256] = {{0}};
    memset(count, 0, LITERALS * sizeof(*count));
    if (first)
        part[0][*p++]++;
    while (p < end) {
        size_t run = run_length(p, end);
        if (run > 0) {
            int bits;
            uint32_t extra;
            count[length_symbol(run, &bits, &extra)]++;
            p += run;
            continue;
        }
        /* No run starts here, and none within the next 3 bytes can be worth missing the speed:
         * write_block takes the same four literals. */
        size_t n = end - p < 4 ? (size_t)(end - p) : 4;
        for (size_t k = 0; k < n; k++)
            part[k][p[k]]++;
        p += n;
    }
    for (int s = 0; s < 256; s++)
        count[s] = part[0][s] + part[1][s] + part[2][s] + part[3][s];
    count[END_OF_BLOCK] = 1;
}

static void write_block(struct writer *w, const struct code *code, const uint8_t *p,
                        const uint8_t *end, bool first)
{
    if (first) {
        put_code(w, code[*p++]);
        flush(w);
    }
    while (p < end) {
        size_t run = run_length(p, end);
        if (run > 0) {
            int bits;
            uint32_t extra;
            put_code(w, code[length_symbol(run, &bits, &extra)]);
            put(w, extra, bits);
            put(w, 0, 1); /* distance 1 */
            flush(w);
            p += run;
            continue;
        }
        if (end - p >= 4) {
            put_code(w, code[p[0]]);
            put_code(w, code[p[1]]);
            put_code(w, code[p[2]]);
            put_code(w, code[p[3]]);
            p += 4;
        } else {
            for (; p < end; p++)
                put_code(w, code[*p]);
        }
        flush(w);
    }
    put_code(w, code[END_OF_BLOCK]);
    flush(w);
}

size_t deflate_runs(uint8_t *dst, const uint8_t *src, size_t size)
{
    struct writer w = {.p = dst};
    *w.p++ = 0x78; /* deflate, 32 KiB window */
    *w.p++ = 0x01; /* fastest; makes the two bytes a multiple of 31 */
    size_t done = 0;
    do {
        size_t n = size - done < BLOCK_SIZE ? size - done : BLOCK_SIZE;
        uint32_t count[LITERALS];
        uint8_t length[LITERALS];
        struct code code[LITERALS];
        const uint8_t *p = src + done;
        bool first = done == 0 && n > 0; /* there is no byte before it to repeat */
        count_block(count, p, p + n, first);
        assign_lengths(length, count, LITERALS, MAX_BITS);
        assign_codes(code, length, LITERALS);
        done += n;
        put(&w, done == size, 1);
        put(&w, 2, 2); /* dynamic codes */
        put_lengths(&w, length);
        write_block(&w, code, p, p + n, first);
    } while (done < size);
    if (w.count > 0) {
        put(&w, 0, 8 - w.count);
        flush(&w);
    }
    uint32_t adler = libdeflate_adler32(1, src, size);
    for (int i = 0; i < 4; i++)
        *w.p++ = (uint8_t)(adler >> (24 - 8 * i));
    return (size_t)(w.p - dst);
}

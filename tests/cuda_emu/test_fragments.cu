/* mma and ldmatrix against the formulas of the PTX ISA, written out here once more. */
#include "test_emu.h"

/* "Matrix Fragments for mma.m16n8k16 with floating point type", groupID = laneid >> 2,
 * threadID_in_group = laneid % 4. */
static void a_position(int lane, int i, int *row, int *col)
{
    int group = lane >> 2, in_group = lane % 4;
    *row = (i >= 0 && i < 2) || (i >= 4 && i < 6) ? group : group + 8;
    *col = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
}

static void b_position(int lane, int i, int *row, int *col)
{
    int group = lane >> 2, in_group = lane % 4;
    *row = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
    *col = group;
}

static void c_position(int lane, int i, int *row, int *col)
{
    int group = lane >> 2, in_group = lane % 4;
    *row = i < 2 ? group : group + 8;
    *col = in_group * 2 + (i & 1);
}

static __global__ void raw_mma(float *d, const uint32_t *a, const uint32_t *b)
{
    float acc[4];
    uint32_t fa[4], fb[2];
    for (int i = 0; i < 4; i++) {
        acc[i] = d[threadIdx.x * 4 + i];
        fa[i] = a[threadIdx.x * 4 + i];
    }
    fb[0] = b[threadIdx.x * 2];
    fb[1] = b[threadIdx.x * 2 + 1];
    mma_bf16_16816(acc, fa, fb);
    for (int i = 0; i < 4; i++)
        d[threadIdx.x * 4 + i] = acc[i];
}

static float small_value(int seed)
{
    return float((seed * 2654435761u >> 24) % 17) - 8.0f; /* exact in bfloat16 and in the sums */
}

START_TEST(mma_layout)
{
    fresh();
    float A[16][16], B[16][8], C[16][8];
    for (int i = 0; i < 256; i++)
        A[i / 16][i % 16] = small_value(i);
    for (int i = 0; i < 128; i++) {
        B[i / 8][i % 8] = small_value(i + 300);
        C[i / 8][i % 8] = small_value(i + 700);
    }
    std::vector<uint32_t> a(128), b(64);
    std::vector<float> d(128);
    for (int lane = 0; lane < 32; lane++) {
        int r, c;
        for (int i = 0; i < 8; i++) {
            a_position(lane, i, &r, &c);
            a[size_t(lane * 4 + i / 2)] |= uint32_t(imf_emu_bf16_bits(A[r][c])) << (16 * (i & 1));
        }
        for (int i = 0; i < 4; i++) {
            b_position(lane, i, &r, &c);
            b[size_t(lane * 2 + i / 2)] |= uint32_t(imf_emu_bf16_bits(B[r][c])) << (16 * (i & 1));
            c_position(lane, i, &r, &c);
            d[size_t(lane * 4 + i)] = C[r][c];
        }
    }
    uint32_t *da = device_copy(a), *db = device_copy(b);
    float *dd = device_copy(d);
    IMF_LAUNCH(raw_mma, 1, 32, 0, 0, dd, da, db);
    expect(0);
    std::vector<float> out = host_copy(dd, 128);
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            int r, c;
            c_position(lane, i, &r, &c);
            float want = C[r][c];
            for (int k = 0; k < 16; k++)
                want += A[r][k] * B[k][c];
            ck_assert_msg(out[size_t(lane * 4 + i)] == want, "lane %d c%d: %g, want %g", lane, i,
                          double(out[size_t(lane * 4 + i)]), double(want));
        }
    ck_assert_uint_eq(imf_emu_counters_find("raw_mma")->tensor_flops, 2 * 16 * 8 * 16);
    /* mma needs the whole warp. */
    IMF_LAUNCH(raw_mma, 1, 16, 0, 0, dd, da, db);
    expect(IMF_EMU_DIVERGENT_WARP);
    imf_emu_reset();
    cudaFree(da);
    cudaFree(db);
    cudaFree(dd);
}
END_TEST

template <int count, bool trans>
static __global__ void raw_ldmatrix(uint32_t *dst, const uint4 *src)
{
    IMF_SHARED(uint4, s, [32]);
    s[threadIdx.x] = src[threadIdx.x];
    __syncthreads();
    uint32_t r[4] = {0, 0, 0, 0};
    const uint4 *row = &s[threadIdx.x];
    if constexpr (count == 4) {
        if (trans)
            ldmatrix_x4_trans(r, row);
        else
            ldmatrix_x4(r, row);
    } else {
        uint32_t q[2];
        if (trans)
            ldmatrix_x2_trans(q, row);
        else
            ldmatrix_x2(q, row);
        r[0] = q[0], r[1] = q[1];
    }
    for (int i = 0; i < 4; i++)
        dst[threadIdx.x * 4 + i] = r[i];
}

START_TEST(ldmatrix_layout)
{
    fresh();
    /* Element (row, column) of matrix m is 64 m + 8 row + column; matrix m's rows are at lanes 8 m
     * ... */
    std::vector<uint16_t> src(256);
    for (size_t i = 0; i < 256; i++)
        src[i] = uint16_t(i);
    uint16_t *ds = device_copy(src);
    const uint4 *rows = reinterpret_cast<const uint4 *>(ds);
    uint32_t *dd = device_array<uint32_t>(128);
    for (int variant = 0; variant < 4; variant++) {
        bool trans = variant & 1;
        int count = variant < 2 ? 4 : 2;
        if (variant == 0)
            IMF_LAUNCH((raw_ldmatrix<4, false>), 1, 32, 0, 0, dd, rows);
        else if (variant == 1)
            IMF_LAUNCH((raw_ldmatrix<4, true>), 1, 32, 0, 0, dd, rows);
        else if (variant == 2)
            IMF_LAUNCH((raw_ldmatrix<2, false>), 1, 32, 0, 0, dd, rows);
        else
            IMF_LAUNCH((raw_ldmatrix<2, true>), 1, 32, 0, 0, dd, rows);
        expect(0);
        std::vector<uint32_t> out = host_copy(dd, 128);
        for (uint32_t lane = 0; lane < 32; lane++)
            for (uint32_t m = 0; m < uint32_t(count); m++)
                for (uint32_t h = 0; h < 2; h++) {
                    uint32_t row = lane / 4, col = 2 * (lane % 4) + h;
                    uint32_t want = trans ? 64 * m + 8 * col + row : 64 * m + 8 * row + col;
                    ck_assert_uint_eq(out[lane * 4 + m] >> (16 * h) & 0xffff, want);
                }
    }
    cudaFree(ds);
    cudaFree(dd);
}
END_TEST

/* A 32 x 32 x 32 product as kernels do it: ldmatrix for both operands. `bug` exchanges two rows of
 * addresses, as a wrong fragment index does. */
template <int bug> static __global__ void tile_product(float *d, const uint4 *a, const uint4 *bt)
{
    IMF_SHARED(uint4, sa, [32][5]); /* rows of 32 bf16 padded to 5 x 16 bytes: no bank conflicts */
    IMF_SHARED(uint4, sb, [32][5]);
    unsigned lane = threadIdx.x;
    for (unsigned c = 0; c < 4; c++) {
        sa[lane][c] = a[lane * 4 + c];
        sb[lane][c] = bt[lane * 4 + c];
    }
    __syncthreads();
    float acc[2][4][4] = {};
    for (unsigned k = 0; k < 2; k++) {
        uint32_t fa[2][4], fb[4][2];
        for (unsigned i = 0; i < 2; i++)
            ldmatrix_x4(fa[i], &sa[16 * i + (lane % 16 ^ bug)][2 * k + lane / 16]);
        for (unsigned j = 0; j < 4; j += 2) {
            uint32_t r[4];
            ldmatrix_x4(r, &sb[8 * j + lane / 16 * 8 + lane % 8][2 * k + lane / 8 % 2]);
            fb[j][0] = r[0], fb[j][1] = r[1], fb[j + 1][0] = r[2], fb[j + 1][1] = r[3];
        }
        mma_bf16_tile(acc, fa, fb);
    }
    for (unsigned i = 0; i < 2; i++)
        for (unsigned j = 0; j < 4; j++)
            for (unsigned e = 0; e < 4; e++)
                d[(16 * i + lane / 4 + e / 2 * 8) * 32 + 8 * j + lane % 4 * 2 + e % 2] =
                    acc[i][j][e];
}

START_TEST(wrong_fragment_index)
{
    fresh();
    std::vector<uint16_t> a(1024), b(1024);
    std::vector<float> want(1024);
    for (int i = 0; i < 1024; i++) {
        a[size_t(i)] = imf_emu_bf16_bits(small_value(i));
        b[size_t(i)] = imf_emu_bf16_bits(small_value(i + 5000));
    }
    for (int r = 0; r < 32; r++)
        for (int c = 0; c < 32; c++)
            for (int k = 0; k < 32; k++)
                want[size_t(r * 32 + c)] +=
                    small_value(r * 32 + k) * small_value(c * 32 + k + 5000);
    uint16_t *da = device_copy(a), *db = device_copy(b);
    const uint4 *va = reinterpret_cast<const uint4 *>(da),
                *vb = reinterpret_cast<const uint4 *>(db);
    float *dd = device_array<float>(1024);
    IMF_LAUNCH(tile_product<0>, 1, 32, 0, 0, dd, va, vb);
    expect(0);
    ck_assert(host_copy(dd, 1024) == want);
    const struct imf_emu_counters *c = imf_emu_counters_find("tile_product<0>");
    ck_assert_uint_eq(c->tensor_flops, 2 * 32 * 32 * 32);
    /* 8 stores and 8 ldmatrix.x4, each 4 passes of 8 rows, none twice to a bank */
    ck_assert_uint_eq(c->shared_requests, 16);
    ck_assert_uint_eq(c->shared_ideal, 64);
    ck_assert_uint_eq(c->shared_wavefronts, 64);
    IMF_LAUNCH(tile_product<1>, 1, 32, 0, 0, dd, va, vb);
    expect(0);
    ck_assert(host_copy(dd, 1024) != want);
    cudaFree(da);
    cudaFree(db);
    cudaFree(dd);
}
END_TEST

/* The lanes give the row addresses in any order; x2 ignores those of lanes 16 to 31. */
static __global__ void shuffled_rows(uint32_t *dst, int count)
{
    IMF_SHARED(uint16_t, s, [32][8]);
    unsigned lane = threadIdx.x;
    for (unsigned i = 0; i < 8; i++)
        s[lane][i] = uint16_t(lane * 8 + i);
    __syncwarp();
    uint32_t r[4] = {}, q[2];
    if (count == 4) {
        ldmatrix_x4(r, s[31 - lane]);
    } else {
        ldmatrix_x2(q, lane < 16 ? s[31 - lane] : nullptr);
        r[0] = q[0], r[1] = q[1];
    }
    for (unsigned i = 0; i < 4; i++)
        dst[lane * 4 + i] = r[i];
}

START_TEST(ldmatrix_addresses)
{
    fresh();
    uint32_t *dd = device_array<uint32_t>(128);
    for (uint32_t count = 2; count <= 4; count += 2) {
        IMF_LAUNCH(shuffled_rows, 1, 32, 0, 0, dd, int(count));
        expect(0);
        std::vector<uint32_t> out = host_copy(dd, 128);
        for (uint32_t lane = 0; lane < 32; lane++)
            for (uint32_t m = 0; m < count; m++) {
                uint32_t first = (31 - (8 * m + lane / 4)) * 8 + 2 * (lane % 4);
                ck_assert_uint_eq(out[lane * 4 + m], first | (first + 1) << 16);
            }
    }
    cudaFree(dd);
}
END_TEST

static __global__ void bad_rows(uint32_t *dst, int kind)
{
    IMF_SHARED(uint16_t, s, [34][8]);
    for (unsigned i = threadIdx.x; i < 32 * 8; i += 32)
        s[i / 8][i % 8] = 0;
    __syncwarp();
    uint32_t r[4];
    const uint16_t *row = s[threadIdx.x];
    if (threadIdx.x == 9)
        row = kind == 1   ? row + 1                                 /* misaligned */
              : kind == 2 ? reinterpret_cast<const uint16_t *>(dst) /* global */
              : kind == 3 ? s[33]                                   /* never written */
              : kind == 4 ? s[0] + 34 * 8                           /* past the array */
                          : row;
    ldmatrix_x4(r, row);
    dst[threadIdx.x] = r[0];
}

START_TEST(ldmatrix_mistakes)
{
    const int kinds[] = {0, IMF_EMU_MISALIGNED, IMF_EMU_OUT_OF_BOUNDS, IMF_EMU_UNINITIALISED,
                         IMF_EMU_OUT_OF_BOUNDS};
    fresh();
    uint32_t *dd = device_array<uint32_t>(128);
    for (int i = 0; i < 5; i++) {
        fresh();
        IMF_LAUNCH(bad_rows, 1, 32, 0, 0, dd, i);
        const struct imf_emu_report *r = expect(kinds[i]);
        ck_assert(!r || r->thread[0] == 9);
    }
    imf_emu_reset();
    cudaFree(dd);
}
END_TEST

/* mma_bf16_tile is MI x NI single instructions, bit by bit. */
static __global__ void tile_or_single(float *d, const uint32_t *a, const uint32_t *b, int tile)
{
    float acc[2][3][4] = {};
    uint32_t fa[2][4], fb[3][2];
    for (int i = 0; i < 2; i++)
        for (int e = 0; e < 4; e++)
            fa[i][e] = a[(threadIdx.x * 2 + i) * 4 + e];
    for (int j = 0; j < 3; j++)
        for (int e = 0; e < 2; e++)
            fb[j][e] = b[(threadIdx.x * 3 + j) * 2 + e];
    if (tile)
        mma_bf16_tile(acc, fa, fb);
    else
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 3; j++)
                mma_bf16_16816(acc[i][j], fa[i], fb[j]);
    for (int i = 0; i < 24; i++)
        d[threadIdx.x * 24 + i] = acc[i / 12][i / 4 % 3][i % 4];
}

START_TEST(tiles_are_single_products)
{
    fresh();
    std::vector<uint32_t> a(256), b(192);
    for (int i = 0; i < 256; i++)
        a[size_t(i)] = imf_emu_pack_bf16x2(small_value(i) * 0.37f, small_value(i + 99) * 1.3f);
    for (int i = 0; i < 192; i++)
        b[size_t(i)] = imf_emu_pack_bf16x2(small_value(i + 7) * 0.11f, small_value(i + 55));
    uint32_t *da = device_copy(a), *db = device_copy(b);
    float *dd = device_array<float>(32 * 24);
    std::vector<float> out[2];
    for (int tile = 0; tile < 2; tile++) {
        IMF_LAUNCH(tile_or_single, 1, 32, 0, 0, dd, da, db, tile);
        expect(0);
        out[tile] = host_copy(dd, 32 * 24);
    }
    ck_assert(out[0] == out[1]);
    cudaFree(da);
    cudaFree(db);
    cudaFree(dd);
}
END_TEST

TCase *fragment_tests(void)
{
    TCase *t = tcase_create("fragments");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, mma_layout);
    tcase_add_test(t, ldmatrix_layout);
    tcase_add_test(t, wrong_fragment_index);
    tcase_add_test(t, ldmatrix_addresses);
    tcase_add_test(t, ldmatrix_mistakes);
    tcase_add_test(t, tiles_are_single_products);
    return t;
}

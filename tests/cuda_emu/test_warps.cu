/* What a warp does together, atomics, constants, and the arithmetic functions. */
#include <cuda_bf16.h>
#include "test_emu.h"

static __global__ void warp_functions(int *x)
{
    int lane = int(threadIdx.x);
    x[lane] = __shfl_sync(0xffffffffu, lane, 5);
    x[32 + lane] = __shfl_up_sync(0xffffffffu, lane, 3);
    x[64 + lane] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
    x[96 + lane] = __shfl_xor_sync(0xffffffffu, lane, 16);
    x[128 + lane] = int(__ballot_sync(0xffffffffu, lane % 3 == 0));
    x[160 + lane] = __any_sync(0xffffffffu, lane == 7) + 2 * __all_sync(0xffffffffu, lane < 31);
    x[192 + lane] = int(warp_sum(float(lane))) * 1000 + int(warp_max(float(-lane)));
    x[224 + lane] = __syncthreads_count(lane < 5) * 100 + __syncthreads_or(lane == 9) * 10 +
                    __syncthreads_and(lane == 9);
}

START_TEST(warp_function_results)
{
    fresh();
    int *x = device_array<int>(256);
    IMF_LAUNCH(warp_functions, 1, 32, 0, 0, x);
    expect(0);
    std::vector<int> v = host_copy(x, 256);
    uint32_t ballot = 0;
    for (uint32_t l = 0; l < 32; l += 3)
        ballot |= 1u << l;
    for (int l = 0; l < 32; l++) {
        ck_assert_int_eq(v[size_t(l)], 5);
        ck_assert_int_eq(v[size_t(32 + l)], l < 3 ? l : l - 3);
        ck_assert_int_eq(v[size_t(64 + l)], l % 8 + 3 < 8 ? l + 3 : l);
        ck_assert_int_eq(v[size_t(96 + l)], l ^ 16);
        ck_assert_uint_eq(uint32_t(v[size_t(128 + l)]), ballot);
        ck_assert_int_eq(v[size_t(160 + l)], 1);
        ck_assert_int_eq(v[size_t(192 + l)], 496000);
        ck_assert_int_eq(v[size_t(224 + l)], 510);
    }
    cudaFree(x);
}
END_TEST

static __global__ void atomics(unsigned *count, float *sum, float *plain)
{
    atomicAdd(count, 1u);
    atomicAdd(sum, 0.5f);
    if (plain)
        plain[0] = 1.0f;
}

START_TEST(atomics_do_not_race)
{
    fresh();
    unsigned *n = device_array<unsigned>(1);
    float *s = device_array<float>(1);
    IMF_LAUNCH(atomics, 4, 64, 0, 0, n, s, static_cast<float *>(nullptr));
    expect(0);
    ck_assert_uint_eq(host_copy(n, 1)[0], 256);
    ck_assert(host_copy(s, 1)[0] == 128.0f);
    IMF_LAUNCH(atomics, 1, 64, 0, 0, n, s, s); /* but a plain write beside them does */
    expect(IMF_EMU_RACE);
    imf_emu_reset();
    cudaFree(n);
    cudaFree(s);
}
END_TEST

__constant__ float table[4] = {1.0f, 2.0f, 3.0f, 4.0f};

static __global__ void read_constant(float *x)
{
    x[threadIdx.x] = table[threadIdx.x];
}

START_TEST(constant_memory)
{
    fresh();
    float *x = device_array<float>(4);
    float v[2] = {7.0f, 8.0f};
    ck_assert_int_eq(cudaMemcpyToSymbol(table, v, sizeof v, 8), cudaSuccess);
    IMF_LAUNCH(read_constant, 1, 4, 0, 0, x);
    expect(0);
    ck_assert(host_copy(x, 4)[1] == 2.0f && host_copy(x, 4)[3] == 8.0f);
    cudaFree(x);
}
END_TEST

static __global__ void more_atomics(int *x, unsigned *u)
{
    int t = int(threadIdx.x);
    atomicMax(&x[0], t);
    atomicMin(&x[1], -t);
    atomicOr(&x[2], 1 << t);
    atomicExch(&x[3], 7);
    atomicCAS(&x[4], 0, t + 1); /* the first to come wins */
    atomicInc(u, 9);            /* wraps after 9 */
}

START_TEST(atomic_results)
{
    fresh();
    int *x = device_array<int>(5);
    unsigned *u = device_array<unsigned>(1);
    IMF_LAUNCH(more_atomics, 1, 32, 0, 0, x, u);
    expect(0);
    ck_assert(host_copy(x, 5) == (std::vector<int>{31, -31, -1, 7, 1}));
    ck_assert_uint_eq(host_copy(u, 1)[0], 32 % 10);
    cudaFree(x);
    cudaFree(u);
}
END_TEST

static __global__ void votes(unsigned *x)
{
    unsigned lane = threadIdx.x;
    x[lane] = __match_any_sync(0xffffffffu, lane / 8);
    x[32 + lane] = __reduce_add_sync(0xffffffffu, lane);
    x[64 + lane] = __reduce_max_sync(0xffffffffu, lane ^ 5);
    x[96 + lane] = __reduce_min_sync(0xffffffffu, lane + 3);
    x[128 + lane] = lane < 8 ? __ballot_sync(0xffu, lane & 1) : 0;
    double both = __shfl_sync(0xffffffffu, double(lane) + 0.5, 3); /* eight bytes at once */
    x[160 + lane] = unsigned(both * 2.0);
}

START_TEST(vote_results)
{
    fresh();
    unsigned *x = device_array<unsigned>(192);
    IMF_LAUNCH(votes, 1, 32, 0, 0, x);
    expect(0);
    std::vector<unsigned> v = host_copy(x, 192);
    for (unsigned l = 0; l < 32; l++) {
        ck_assert_uint_eq(v[l], 0xffu << (l / 8 * 8));
        ck_assert_uint_eq(v[32 + l], 496);
        ck_assert_uint_eq(v[64 + l], 31);
        ck_assert_uint_eq(v[96 + l], 3);
        ck_assert_uint_eq(v[128 + l], l < 8 ? 0xaa : 0);
        ck_assert_uint_eq(v[160 + l], 7);
    }
    cudaFree(x);
}
END_TEST

static __global__ void shuffle_from_outside(float *x)
{
    if (threadIdx.x < 8)
        x[threadIdx.x] = __shfl_sync(0xffu, 1.0f, 9); /* lane 9 is not in the mask */
}

START_TEST(shuffle_outside_the_mask)
{
    fresh();
    float *x = device_array<float>(32);
    IMF_LAUNCH(shuffle_from_outside, 1, 32, 0, 0, x);
    const struct imf_emu_report *r = expect(IMF_EMU_DIVERGENT_WARP);
    ck_assert(strstr(r->text, "not in the mask"));
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

/* bfloat16: to nearest, ties to even; infinities stay, NaN becomes the canonical one. */
START_TEST(bfloat16_rounding)
{
    const struct {
        uint32_t from;
        uint16_t to;
    } t[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81},
             {0xbf807fff, 0xbf80}, {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80}, {0xff800000, 0xff80},
             {0x7f800001, 0x7fff}, {0xffc00000, 0x7fff}, {0x00000001, 0x0000}, {0x80008000, 0x8000},
             {0x00018000, 0x0002}, {0x80000000, 0x8000}};
    for (auto &c : t) {
        ck_assert_uint_eq(imf_emu_bf16_bits(__uint_as_float(c.from)), c.to);
        ck_assert_uint_eq(pack_bf16x2(__uint_as_float(c.from), 1.0f), c.to | 0x3f800000u);
        ck_assert_uint_eq(__float2bfloat16(__uint_as_float(c.from)).bits, c.to);
    }
    for (uint32_t bits = 0; bits < 0x7f80; bits++) /* and back without a change */
        ck_assert_uint_eq(imf_emu_bf16_bits(bf16_lo(bits)), bits);
    ck_assert(bf16_hi(0xc0490000u) == -3.140625f);
    ck_assert(float(__hadd(__nv_bfloat16(1.0f), __nv_bfloat16(0.00390625f))) == 1.0f);
}
END_TEST

START_TEST(integer_functions)
{
    ck_assert_uint_eq(__byte_perm(0x33221100u, 0x77665544u, 0x7250u), 0x77225500u);
    ck_assert_uint_eq(__funnelshift_r(0x80000001u, 0x00000003u, 1), 0xc0000000u);
    ck_assert_uint_eq(__umulhi(0x80000000u, 6), 3);
    ck_assert_int_eq(__mulhi(-0x40000000, 8), -2);
    ck_assert_uint_eq(uint64_t(__umul64hi(1ull << 63, 6)), 3);
    ck_assert_int_eq(__clz(0), 32);
    ck_assert_int_eq(__clz(1), 31);
    ck_assert_int_eq(__ffs(8), 4);
    ck_assert_int_eq(__popc(0xf0f0u), 8);
    ck_assert_int_eq(__float2int_rn(2.5f), 2);
    ck_assert_int_eq(__float2int_rz(-2.9f), -2);
    ck_assert_int_eq(__float2int_rd(-2.1f), -3);
    ck_assert(__saturatef(1.5f) == 1.0f && __saturatef(-1.0f) == 0.0f && __saturatef(NAN) == 0.0f);
    ck_assert(max(-1, 2) == 2 && min(3u, 2u) == 2u && fmaxf(NAN, 1.0f) == 1.0f);
}
END_TEST

TCase *warp_tests(void)
{
    TCase *t = tcase_create("warps");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, warp_function_results);
    tcase_add_test(t, atomics_do_not_race);
    tcase_add_test(t, constant_memory);
    tcase_add_test(t, atomic_results);
    tcase_add_test(t, vote_results);
    tcase_add_test(t, shuffle_outside_the_mask);
    tcase_add_test(t, bfloat16_rounding);
    tcase_add_test(t, integer_functions);
    return t;
}

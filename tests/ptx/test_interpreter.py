"""The interpreter on small programs: arithmetic by the PTX ISA, and a fault for each thing it looks for."""
import unittest

import numpy as np

from instructions import to_bf16
from machine import Machine, Memory
from ptx import Fault, parse

PROGRAM = """
.visible .entry program(.param .u64 program_param_0, .param .u64 program_param_1)
.maxntid 64, 1, 1
{
    .reg .pred %%p<9>; .reg .b32 %%r<99>; .reg .b64 %%rd<99>;
    .shared .align 16 .b8 tile[4096];
    ld.param.u64 %%rd1, [program_param_0];
    ld.param.u64 %%rd2, [program_param_1];
    mov.u32 %%r1, %%tid.x;
    mul.wide.u32 %%rd3, %%r1, 4;
    add.s64 %%rd1, %%rd1, %%rd3;
    mov.u32 %%r2, tile;
    mad.lo.s32 %%r3, %%r1, 4, %%r2;
    xor.b32 %%r4, %%r1, 63;
    mad.lo.s32 %%r5, %%r4, 4, %%r2;
%s
    ret;
}
"""
OUT = "st.global.u32 [%rd1], %r9;"


def run(body, data=np.arange(1024, dtype=np.uint32), **options):
    """%rd1: the thread's word of the result, %rd2: data, %r1: thread, %r3: its word of `tile` in shared
    memory, %r5: the word of the thread opposite."""
    memory = Memory(1 << 16)
    out = memory.reserve(64 * 4)
    machine = Machine(memory, parse(PROGRAM % body.replace(";", ";\n"))["program"], **options)
    machine.launch((1, 1, 1), (64, 1, 1), 0, [out, memory.store(data)])
    return memory.load(out, np.uint32, 64)


class Arithmetic(unittest.TestCase):
    def check(self, body, expected):
        np.testing.assert_array_equal(run(body + OUT), np.asarray(expected).astype(np.uint32))

    def test_integers(self):
        thread = np.arange(64, dtype=np.int64)
        self.check("sub.s32 %r8, %r1, 40; mul.hi.s32 %r9, %r8, 1717986919;", (thread - 40) * 1717986919 >> 32)
        self.check("sub.s32 %r8, %r1, 40; div.s32 %r9, %r8, 7;", np.trunc((thread - 40) / 7).astype(np.int64))
        self.check("sub.s32 %r8, %r1, 40; rem.s32 %r9, %r8, 7;", np.fmod(thread - 40, 7))
        self.check("sub.s32 %r8, %r1, 40; shr.s32 %r9, %r8, 3;", (thread - 40) >> 3)
        self.check("shl.b32 %r9, 1, %r1;", np.where(thread < 32, 1 << np.minimum(thread, 31), 0))
        self.check("bfi.b32 %r9, %r1, -1, 4, 6;", 0xFFFFFC0F | thread << 4)
        self.check("mul.wide.u32 %rd5, %r1, -1; shr.u64 %rd6, %rd5, 32; cvt.u32.u64 %r9, %rd6;",
                   np.maximum(thread - 1, 0))

    def test_floats(self):
        bits = lambda x: np.float32(x).view(np.uint32)
        self.check("fma.rn.f32 %r9, 0f3F800001, 0f3F800001, 0fBF800002;", np.full(64, bits(2.0 ** -46)))
        self.check("fma.rm.f32 %r9, 0f3F800000, 0f33000000, 0f3F800000;", np.full(64, bits(1)))
        self.check("fma.rm.f32 %r9, 0f3F800000, 0fB3000000, 0f3F800000;", np.full(64, bits(1 - 2.0 ** -24)))
        self.check("cvt.rn.bf16x2.f32 %r9, 0f3F808000, 0f3F818000;", np.full(64, 0x3F803F82))  # ties to even
        self.check("max.f32 %r9, 0f7FC00000, 0f40000000;", np.full(64, bits(2)))
        self.check("ex2.approx.ftz.f32 %r9, 0fC2FE0000;", np.full(64, 0))  # 2^-127 is flushed
        self.check("cvt.rni.s32.f32 %r9, 0f40200000;", np.full(64, 2))
        self.check("setp.ltu.f32 %p1, 0f7FC00000, 0f00000000; selp.b32 %r9, 7, 8, %p1;", np.full(64, 7))

    def test_divergent_threads_meet_again(self):
        self.check("mov.u32 %r9, 0; $again: setp.ge.u32 %p1, %r9, %r1; @%p1 bra $out; add.s32 %r9, %r9, 1; "
                   "bra $again; $out: shfl.sync.bfly.b32 %r9, %r9, 1, 31, -1;", np.arange(64) ^ 1)

    def test_shuffle(self):
        self.check("shfl.sync.bfly.b32 %r9|%p1, %r1, 16, 31, -1;", np.arange(64) ^ 16)

    def test_product_of_a_warp(self):
        """A and B as their fragments lie in memory, by the formulas of the ISA written out here again."""
        random = np.random.default_rng(3)
        A, B = (random.integers(-8, 9, shape).astype(np.float32) for shape in ((16, 16), (16, 8)))
        words = np.zeros((32, 6), np.uint32)
        for lane in range(32):
            g, t = lane // 4, lane % 4
            pairs = [(A, g, 2 * t), (A, g + 8, 2 * t), (A, g, 2 * t + 8), (A, g + 8, 2 * t + 8)]
            pairs = [(m[r, c], m[r, c + 1]) for m, r, c in pairs]
            pairs += [(B[2 * t, g], B[2 * t + 1, g]), (B[2 * t + 8, g], B[2 * t + 9, g])]
            for j, pair in enumerate(pairs):
                low, high = to_bf16(np.array(pair))
                words[lane, j] = int(low) | int(high) << 16
        load = "".join("ld.global.u32 %%r%d, [%%rd4+%d];" % (20 + j, 4 * j) for j in range(6))
        for which, (row, column) in enumerate(((0, 0), (0, 1), (8, 0), (8, 1))):
            got = run("and.b32 %r6, %r1, 31; mul.wide.u32 %rd4, %r6, 24; add.s64 %rd4, %rd4, %rd2;" + load +
                      "mov.b32 %r30, 0; mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r31, %r32, %r33, %r34}, "
                      "{%r20, %r21, %r22, %r23}, {%r24, %r25}, {%r30, %r30, %r30, %r30};" +
                      "mov.b32 %%r9, %%r%d;" % (31 + which) + OUT, words)[:32].view(np.float32)
            lane = np.arange(32)
            np.testing.assert_array_equal(got, (A @ B)[lane // 4 + row, lane % 4 * 2 + column])

    def test_ldmatrix(self):
        """Rows of eight halves, element (r, c) = 8 r + c, two to a word."""
        fill = ("shl.b32 %r6, %r1, 1; add.s32 %r7, %r6, 1; shl.b32 %r7, %r7, 16; or.b32 %r6, %r6, %r7; "
                "st.shared.u32 [%r3], %r6; bar.sync 0; and.b32 %r7, %r1, 7; mad.lo.s32 %r7, %r7, 16, %r2;")
        lane = np.arange(64) % 32
        self.check(fill + "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r9}, [%r7];", 2 * lane | 2 * lane + 1 << 16)
        element = lane % 4 * 16 + lane // 4
        self.check(fill + "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r9}, [%r7];", element | element + 8 << 16)


class Faults(unittest.TestCase):
    def check(self, what, body, **options):
        with self.assertRaisesRegex(Fault, what):
            run(body, **options)

    def test_addresses(self):
        self.check("outside every allocation", "ld.global.u32 %r9, [%rd2+4096];")
        self.check("misaligned", "ld.global.v2.u32 {%r8, %r9}, [%rd1];")
        self.check("out of bounds", "ld.shared.u32 %r9, [%r3+4096];")
        self.check("misaligned", "st.shared.u16 [%r3+1], %rs1;")
        self.check("never written", "ld.global.u32 %r9, [%rd1];")
        self.check("never written", "ld.shared.u32 %r9, [%r3];")
        self.check("one global byte", "st.global.u32 [%rd2], %r1;")
        self.check("never written", "setp.lt.u32 %p1, %r1, 63; @%p1 st.global.u32 [%rd1], %r1;")

    def test_barriers(self):
        swap = "st.shared.u32 [%r3], %r1; bar.sync 0; ld.shared.u32 %r9, [%r5];"
        np.testing.assert_array_equal(run(swap + OUT), 63 - np.arange(64))
        for order in "block", "warp":
            self.check("race|never written", swap.replace("bar.sync 0;", ""), order=order)
            self.check("race", swap + "st.shared.u32 [%r3], %r9;", order=order)
        self.check("different barriers", "setp.lt.u32 %p1, %r1, 32; @%p1 bra $else; bar.sync 0; bra.uni $end; "
                   "$else: bar.sync 0; $end: ")
        self.check("never reach", "setp.lt.u32 %p1, %r1, 32; @%p1 ret; bar.sync 0;")

    def test_copies(self):
        copy = "mul.wide.u32 %rd5, %r1, 4; add.s64 %rd5, %rd5, %rd2; cp.async.ca.shared.global [%r3], [%rd5], 4, 4; "
        wait, read = "cp.async.commit_group; cp.async.wait_group 0; bar.sync 0; ", "ld.shared.u32 %r9, [%r5];"
        for late in True, False:
            np.testing.assert_array_equal(run(copy + wait + read + OUT, late=late), 63 - np.arange(64))
        self.check("in flight", copy + "cp.async.commit_group; bar.sync 0; " + read)
        self.check("in flight", copy + "cp.async.commit_group; cp.async.wait_group 1; bar.sync 0; " + read)
        self.check("race", copy + wait.replace("bar.sync 0; ", "") + read)
        self.check("ended with", copy)
        zero = copy.replace("4, 4;", "4, 0;")
        np.testing.assert_array_equal(run(zero + wait + read + OUT), np.zeros(64))

    def test_whole_warps(self):
        self.check("part of a warp", "setp.lt.u32 %p1, %r1, 16; @%p1 bra $end; "
                   "shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1; $end: ")

    def test_unknown_instruction(self):
        self.check("unknown instruction", "frobnicate.b32 %r9, %r1;")


if __name__ == "__main__":
    unittest.main()

"""mbarriers, tensor copies, clusters and wgmma on small programs; every step is needed, and what is wrong is noticed."""
import unittest

import numpy as np

from hopper import TensorMap
from instructions import from_bf16, to_bf16
from machine import Machine, Memory
from ptx import Fault, parse

ORDERS = ({}, {"late": False}, {"order": "warp", "seed": 3}, {"order": "first"})

HEAD = """
.visible .entry program(.param .u64 program_param_0, .param .align 64 .b8 program_param_1[128],
                        .param .align 64 .b8 program_param_2[128])
.reqntid %d, 1, 1
.explicitcluster
.reqnctapercluster %d, 1, 1
{
    .reg .b32 %%r<99>; .reg .b64 %%rd<99>; .reg .pred %%p<9>;
    .shared .align 1024 .b8 tile[%d];
    ld.param.u64 %%rd1, [program_param_0];
    mov.u32 %%r1, %%tid.x;
    mov.u32 %%r2, tile;
    mov.u32 %%r3, %%cluster_ctarank;
    mov.b64 %%rd8, program_param_1;
    cvta.param.u64 %%rd8, %%rd8;
    mov.b64 %%rd9, program_param_2;
    cvta.param.u64 %%rd9, %%rd9;
    setp.ne.u32 %%p1, %%r1, 0;
"""


def run(body, shape, maps, memory, threads=128, blocks=1, shared=16384, **options):
    """%r1: thread, %r2: tile in shared memory, %r3: rank in the cluster, %p1: not the first thread, %rd1: the
    result, of floats of `shape`, %rd8 and %rd9: tensor maps."""
    text = HEAD % (threads, blocks, shared) + ";\n".join(body.split(";")) + "\nret;\n}"
    out = memory.reserve(int(np.prod(shape)) * 4)
    memory.tensor_maps = maps
    machine = Machine(memory, parse(text)["program"], **options)
    machine.launch((blocks, 1, 1), (threads, 1, 1), 0, [out] + [n.to_bytes(128, "little") for n in range(2)])
    return memory.load(out, np.float32, shape)


class Steps(unittest.TestCase):
    """Programs as lists of named steps, one of which is left out or replaced."""

    def right(self, run_steps, steps):
        for options in ORDERS:
            with self.subTest(**options):
                got, expected = run_steps("".join(steps.values()), **options)
                np.testing.assert_array_equal(got, expected)

    def wrong(self, run_steps, steps, **changed):
        """Some order of execution notices."""
        for name in changed:
            self.assertIn(name, steps)
        seen = []
        for options in ORDERS:
            try:
                got, expected = run_steps("".join({**steps, **changed}.values()), **options)
                seen.append("wrong result" if not np.array_equal(got, expected) else "")
            except Fault as fault:
                self.assertNotIn("unknown", str(fault))
                seen.append(str(fault))
        self.assertTrue(any(seen), "nobody notices " + str(changed))
        return [what for what in seen if what]


# D (64, 8) = A (64, 64) B (8, 64)^T by one warpgroup; A at tile, B 8192 behind it, the mbarrier 9216.
PRODUCT = {
    "init": "@%p1 bra $ready; mbarrier.init.shared::cta.b64 [%r2+9216], 1;",
    "fence_init": "fence.mbarrier_init.release.cluster;",
    "expect": "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+9216], 9216;",
    "copy_a": "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2], "
              "[%rd8, {0, 0}], [%r2+9216]; add.u32 %r4, %r2, 8192;",
    "copy_b": "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r4], "
              "[%rd9, {0, 0}], [%r2+9216];",
    "sync": "$ready: bar.sync 0;",
    "wait": "$wait: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2+9216], 0; @!%p2 bra $wait;",
    "describe": "shr.u32 %r5, %r2, 4; cvt.u64.u32 %rd3, %r5; or.b64 %rd3, %rd3, 4611686293305294848;"
                "add.s64 %rd4, %rd3, 512;",
    "fence": "wgmma.fence.sync.aligned;",
    "multiply": "".join(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%%r10, %%r11, %%r12, %%r13}, %%rd3, %%rd4, %d, 1, 1, 0, 0;"
        "add.s64 %%rd3, %%rd3, 2; add.s64 %%rd4, %%rd4, 2;" % (k > 0) for k in range(4)),
    "commit": "wgmma.commit_group.sync.aligned;",
    "drain": "wgmma.wait_group.sync.aligned 0;",
    "store": "mul.wide.u32 %rd5, %r1, 16; add.s64 %rd1, %rd1, %rd5;"
             "st.global.v4.b32 [%rd1], {%r10, %r11, %r12, %r13};",
}


def product(body, swizzle=128, **options):
    random, memory = np.random.default_rng(5), Memory(1 << 16)
    A, B = (random.integers(-8, 9, shape).astype(np.float32) for shape in ((64, 64), (8, 64)))
    maps = [TensorMap(memory.store(to_bf16(m)), (64, len(m)), (128,), box=(64, len(m)), swizzle=swizzle)
            for m in (A, B)]
    got = run(body, (128, 4), maps, memory, **options)
    thread = np.arange(128)[:, None]
    register = np.arange(4)
    row, column = thread // 32 * 16 + thread % 32 // 4 + register // 2 * 8, thread % 4 * 2 + register % 2
    return got, (A @ B.T)[row, column]


class Products(Steps):
    def test_right(self):
        self.right(product, PRODUCT)

    def test_every_step_is_needed(self):
        ready = {"init": "@%p1 bra $ready;"}
        for name, changed in (("fence_init", ""), ("expect", ""), ("copy_b", ""), ("sync", "$ready:"), ("wait", ""),
                              ("fence", ""), ("commit", ""), ("drain", ""), ("init", ready["init"])):
            with self.subTest(name):
                self.wrong(product, PRODUCT, **{name: changed})

    def test_wrong_parity_and_bytes(self):
        wait, expect = PRODUCT["wait"], PRODUCT["expect"]
        for bytes_ in 8192, 9232:
            self.wrong(product, PRODUCT, expect=expect.replace(" 9216;", " %d;" % bytes_))
        seen = self.wrong(product, PRODUCT, wait=wait.replace("9216], 0", "9216], 1"))
        self.assertIn("a product of what a copy is still writing", seen)
        twice = wait + wait.replace("9216], 0", "9216], 1").replace("$wait", "$twice")
        self.assertIn("wait forever", " ".join(self.wrong(product, PRODUCT, wait=twice)))

    def test_wrong_layouts(self):
        got, expected = product("".join(PRODUCT.values()), swizzle=0)
        self.assertFalse(np.array_equal(got, expected))
        for shift, what in ((0, "without 128-byte swizzling"), (1 << 49 | 1 << 62, "base offset")):
            described = PRODUCT["describe"].replace("4611686293305294848", str(64 << 32 | 1 << 16 | shift))
            with self.assertRaisesRegex(Fault, what):
                product("".join({**PRODUCT, "describe": described}.values()))
        stride = PRODUCT["describe"].replace("4611686293305294848", str(1 << 62 | 32 << 32))
        self.wrong(product, PRODUCT, describe=stride)

    def test_operands_stay_until_the_wait(self):
        overwrite = PRODUCT["commit"] + "st.shared.u32 [%r2], %r1;"
        one = PRODUCT["commit"] + "@%p1 bra $on; st.shared.u32 [%r2], %r1; $on:"
        for commit in overwrite, one:
            self.assertIn("may still read", " ".join(self.wrong(product, PRODUCT, commit=commit)))
        again = PRODUCT["commit"] + "@%p1 bra $on;" + PRODUCT["expect"] + PRODUCT["copy_a"] + "$on:"
        self.assertIn("may still read", " ".join(self.wrong(product, PRODUCT, commit=again)))

    def test_sums_are_touched_by_nobody_else(self):
        late = PRODUCT["fence"] + "mov.b32 %r10, 0;"
        self.assertIn("since wgmma.fence", " ".join(self.wrong(product, PRODUCT, fence=late)))
        overlap = PRODUCT["multiply"].replace("{%r10, %r11, %r12, %r13}", "{%r13, %r11, %r12, %r10}", 1)
        self.assertIn("under way", " ".join(self.wrong(product, PRODUCT, multiply=overlap)))

    def test_threads_operands_need_a_proxy_fence(self):
        """B is written by threads instead of a copy: its rows of 128 bytes, bfloat16 ones."""
        fill = ("setp.gt.u32 %p3, %r1, 63; @%p3 bra $filled; mad.lo.u32 %r6, %r1, 16, %r2; mov.b32 %r7, 0x3F803F80;"
                "st.shared.v4.b32 [%r6+8192], {%r7, %r7, %r7, %r7}; ")
        steps = {**PRODUCT, "expect": PRODUCT["expect"].replace(" 9216;", " 8192;"), "copy_b": "",
                 "sync": "$ready: bar.sync 0; " + fill + "fence.proxy.async.shared::cta; $filled: bar.sync 0;"}

        def ones(body, **options):
            random, memory = np.random.default_rng(5), Memory(1 << 16)
            A = random.integers(-8, 9, (64, 64)).astype(np.float32)
            at = memory.store(to_bf16(A))
            got = run(body, (128, 4), [TensorMap(at, (64, 64), (128,), box=(64, 64))] * 2, memory, **options)
            thread = np.arange(128)[:, None]
            return got, A.sum(1)[thread // 32 * 16 + thread % 32 // 4 + np.arange(4) // 2 * 8]
        self.right(ones, steps)
        unfenced = steps["sync"].replace("fence.proxy.async.shared::cta;", "")
        self.assertIn("did not fence", " ".join(self.wrong(ones, steps, sync=unfenced)))
        unmet = steps["sync"].replace("$filled: bar.sync 0;", "$filled:")
        self.assertIn("since the last barrier", " ".join(self.wrong(ones, steps, sync=unmet)))


# Rank 0 sends a tile of 8 rows to both blocks of a cluster; each adds up its own copy, and rank 1 frees rank 0.
MULTICAST = {
    "init": "@%p1 bra $ready; mbarrier.init.shared::cta.b64 [%r2+1024], 1; mbarrier.init.shared::cta.b64 [%r2+1032], 1;",
    "fence_init": "fence.mbarrier_init.release.cluster;",
    "expect": "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+1024], 1024;",
    "ready": "$ready:",
    "arrive": "barrier.cluster.arrive.release.aligned;",
    "sync": "barrier.cluster.wait.acquire.aligned;",
    "send": "setp.ne.u32 %p2, %r3, 0; or.pred %p3, %p1, %p2; mov.u16 %rs1, 3; @%p3 bra $sent; "
            "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%r2], "
            "[%rd8, {0, 1}], [%r2+1024], %rs1; $sent:",
    "wait": "$wait: mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r2+1024], 0; @!%p4 bra $wait;",
    "read": "mul.lo.u32 %r4, %r1, 4; add.u32 %r4, %r4, %r2; ld.shared.u32 %r9, [%r4];",
    "free": "mapa.shared::cluster.u32 %r5, %r2, 0; @%p1 bra $free; @!%p2 bra $free; "
            "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r5+1032]; $free:",
    "freed": "@%p2 bra $freed; $again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p4, [%r2+1032], 0; "
             "@!%p4 bra $again; $freed:",
    "end": "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;",
    "store": "mad.lo.u32 %r6, %r3, 256, %r1; mul.wide.u32 %rd5, %r6, 4; add.s64 %rd1, %rd1, %rd5;"
             "st.global.u32 [%rd1], %r9;",
}


def multicast(body, **options):
    memory = Memory(1 << 16)
    x = to_bf16(np.arange(10 * 64).reshape(10, 64) % 251)
    maps = [TensorMap(memory.store(x), (64, 10), (128,), box=(64, 8), swizzle=0)] * 2
    got = run(body, (2, 256), maps, memory, threads=256, blocks=2, shared=2048, **options).view(np.uint32)
    return got, np.stack([x[1:9].reshape(-1).view(np.uint32)] * 2)


class Clusters(Steps):
    def test_right(self):
        self.right(multicast, MULTICAST)

    def test_every_step_is_needed(self):
        for name in "fence_init", "expect", "arrive", "sync", "wait", "free":
            with self.subTest(name):
                self.wrong(multicast, MULTICAST, **{name: ""})

    def test_blocks_stay_until_the_last_arrival(self):
        without = {"freed": "", "end": ""}
        self.assertIn("has ended", " ".join(self.wrong(multicast, MULTICAST, **without)))


class Registers(unittest.TestCase):
    def change(self, give, take):
        body = ("setp.gt.u32 %%p2, %%r1, 127; @%%p2 bra $give; %s bra $end; $give: %s $end: mul.wide.u32 %%rd5, %%r1, 4;"
                "add.s64 %%rd1, %%rd1, %%rd5; st.global.u32 [%%rd1], %%r1;" % (take, give))
        return run(body, (384,), [], Memory(1 << 16), threads=384, order="first")

    def test_they_come_from_other_warps(self):
        give, take = "setmaxnreg.dec.sync.aligned.u32 40;", "setmaxnreg.inc.sync.aligned.u32 232;"
        np.testing.assert_array_equal(self.change(give, take).view(np.uint32), np.arange(384))
        for wrong, what in (("", "wait forever"), (give.replace("40", "20"), "out of range"),
                            (give.replace("40", "176"), "wrong direction")):
            with self.assertRaisesRegex(Fault, what):
                self.change(wrong, take)


class Im2col(unittest.TestCase):
    """A 3x3 convolution's pixels: lower and upper corner -1, offsets 0..2, from pixel (2, 1) of picture 0 on."""

    def load(self, start, offsets, channel=0, pixels=24):
        random, memory = np.random.default_rng(6), Memory(1 << 16)
        x = from_bf16(to_bf16(random.normal(size=(2, 3, 5, 24)).astype(np.float32)))
        tensor = TensorMap(memory.store(to_bf16(x)), (24, 5, 3, 2), (48, 240, 720), lower=(-1, -1), upper=(-1, -1),
                           channels=16, pixels=pixels, swizzle=0)
        body = ("@%%p1 bra $ready; mbarrier.init.shared::cta.b64 [%%r2+8192], 1; fence.mbarrier_init.release.cluster;"
                "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%%r2+8192], %d; mov.b32 %%r5, %d; mov.b32 %%r6, %d;"
                "mov.u16 %%rs1, %d; mov.u16 %%rs2, %d;"
                "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%%r2], "
                "[%%rd8, {%d, %%r5, %%r6, 0}], [%%r2+8192], {%%rs1, %%rs2}; $ready: bar.sync 0;"
                "$wait: mbarrier.try_wait.parity.shared::cta.b64 %%p2, [%%r2+8192], 0; @!%%p2 bra $wait;"
                "mad.lo.u32 %%r7, %%r1, 4, %%r2; ld.shared.u32 %%r8, [%%r7]; mul.wide.u32 %%rd5, %%r1, 4;"
                "add.s64 %%rd1, %%rd1, %%rd5; st.global.u32 [%%rd1], %%r8;" % (pixels * 32, *start, *offsets, channel))
        got = run(body, (pixels * 8,), [tensor] * 2, memory, threads=pixels * 8)
        return x, from_bf16(got.view(np.uint16)).reshape(pixels, 16)

    def test_windows(self):
        for offsets in (0, 0), (1, 1), (2, 0), (0, 2), (2, 2):
            for channel in 0, 16:
                x, got = self.load((2 - 1, 1 - 1), offsets, channel)
                padded = np.pad(x, ((0, 1), (1, 1), (1, 1), (0, 8)))
                for i, row in enumerate(got):
                    n, y, z = (7 + i) // 15, (7 + i) // 5 % 3, (7 + i) % 5
                    np.testing.assert_array_equal(row, padded[n, y + offsets[1], z + offsets[0], channel:channel + 16])

    def test_a_start_outside_the_box(self):
        with self.assertRaisesRegex(Fault, "outside the bounding box"):
            self.load((4, 0), (0, 0))


if __name__ == "__main__":
    unittest.main()

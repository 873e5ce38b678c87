"""Every kernel of kernels/ on shapes that divide no tile, against float64 in NumPy.

A case is a function of a Gpu that launches as the launcher in the .cu file does and returns what it got, what
is right, and the bound on the relative error. Small shapes: what is interpreted here takes seconds.
"""
import functools
import glob
import os
import struct

import numpy as np

from hopper import TensorMap
from instructions import from_bf16, to_bf16
from machine import Machine, Memory
from ptx import Fault, parse

BF16, F32 = "t", "f"          # as they stand in mangled names
CLOSE = {BF16: 4e-3, F32: 2e-6}


def pad(channels):
    return (channels + 7) // 8 * 8


def blocks(items, per_block):
    return (items + per_block - 1) // per_block


def read_kernels(folder):
    """{mangled name: Kernel} of all .ptx files in a folder."""
    kernels = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.ptx"))):
        with open(path) as f:
            kernels.update(parse(f.read()))
    return kernels


class Gpu:
    """One case's memory and launches. `ran`: {kernel: positions in its code that were executed}."""

    def __init__(self, kernels, order="block", late=True, seed=0):
        self.kernels, self.order, self.late, self.seed = kernels, order, late, seed
        self.memory, self.ran = Memory(), {}
        self.random = np.random.default_rng(7)

    def normal(self, *shape, kind=F32, scale=1.0):
        x = (self.random.normal(size=shape) * scale).astype(np.float32)
        return from_bf16(to_bf16(x)) if kind == BF16 else x

    def put(self, array, kind=None):
        """Into GPU memory: floats as `kind`, everything else as it is."""
        return self.memory.store(to_bf16(array) if kind == BF16 else array)

    def room(self, shape, kind=F32):
        return self.memory.reserve(int(np.prod(shape)) * (2 if kind == BF16 else 4))

    def tensor_map(self, *arguments, **options):
        """A kernel's argument that stands for a map."""
        self.memory.tensor_maps.append(TensorMap(*arguments, **options))
        return (len(self.memory.tensor_maps) - 1).to_bytes(128, "little")

    def get(self, address, shape, kind=F32):
        if kind == BF16:
            return from_bf16(self.memory.load(address, np.uint16, shape))
        return self.memory.load(address, np.float32, shape)

    def launch(self, name, grid, threads, dynamic, *arguments):
        """`name`: as the mangled name begins after _Z and the length, template arguments included."""
        plain = name.split("I")[0] if "I" in name else name
        found = [k for k in self.kernels if k.startswith("_Z%d%s" % (len(plain), name))]
        if len(found) != 1:
            raise Fault("%d kernels are called %s" % (len(found), name))
        machine = Machine(self.memory, self.kernels[found[0]], self.order, self.late, self.seed)
        grid = (grid, 1, 1) if isinstance(grid, int) else (*grid, 1, 1)[:3]
        try:
            machine.launch(grid, (threads, 1, 1), dynamic, arguments)
        finally:
            self.ran.setdefault(found[0], set()).update(machine.executed)


def difference(got, right):
    """Relative error in the L2 norm; infinite for anything that is no number."""
    if not np.isfinite(got).all():
        return np.inf
    return np.linalg.norm(got.astype(np.float64) - right) / np.linalg.norm(right)


CASES = []


def case(*arguments, **options):
    """Adds the function with these arguments to the table; keywords starting with `_` are the Gpu's."""
    def add(function):
        gpu = {k[1:]: v for k, v in options.items() if k.startswith("_")}
        own = {k: v for k, v in options.items() if not k.startswith("_")}
        words = [str(a) for a in arguments] + ["%s=%s" % (k.lstrip("_"), v) for k, v in options.items()]
        run = functools.partial(function, *arguments, **own)
        CASES.insert(0, ("%s(%s)" % (function.__name__, ", ".join(words)), functools.partial(apply_case, run), gpu))
        return function
    return add


def apply_case(run, gpu):
    return run(gpu=gpu)


def silu(x):
    return x / (1 + np.exp(-x))


# ---- convolutions ----

def convolve(x, w, bias, up, residual, relu, stride=1, pad_h=1, pad_w=1):
    """x (n, h, w, c), w (out, in, kh, kw), float64."""
    if up:
        x = x.repeat(2, 1).repeat(2, 2)
    out, _, kh, kw = w.shape
    oh, ow = (x.shape[1] + 2 * pad_h - kh) // stride + 1, (x.shape[2] + 2 * pad_w - kw) // stride + 1
    x = np.pad(x, ((0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0)))
    y = np.zeros((x.shape[0], oh, ow, out)) + bias
    for ky in range(kh):
        for kx in range(kw):
            y += x[:, ky:, kx:][:, :oh * stride:stride, :ow * stride:stride][:, :oh, :ow] @ w[:, :, ky, kx].T
    if residual is not None:
        y = y + residual
    return np.maximum(y, 0) if relu else y


def nhwc(x):
    """Channels padded with zeros to a multiple of 8."""
    return np.pad(x, ((0, 0), (0, 0), (0, 0), (0, pad(x.shape[3]) - x.shape[3])))


def permuted(out, group):
    """Where output channel `out` stands among a group's matrix rows: pairs 8 j + 2 t + e are channels
    (group / 4) t + 2 j + e, so that a lane's accumulators are neighbours."""
    each = group // 4
    within = out % group
    return out - within + 8 * (within % each // 2) + 2 * (within // each) + out % 2


def conv_struct(n, h, w, i, o, oh, ow, kh, kw, stride, pad_h, pad_w, up, relu, f32, groups):
    return struct.pack("<16i", n, h, w, i, o, oh, ow, kh, kw, stride, pad_h, pad_w, up, relu, f32, groups)


def convolution(gpu, launch, n, h, w, i, o, kh=3, kw=3, stride=1, pad_h=1, pad_w=1, up=0, residual=False, relu=False,
                kind=BF16, f32=False, groups=0):
    """Makes the operands, has `launch` pack the weights and run, compares."""
    result = F32 if f32 or kind == F32 else BF16
    oh, ow = ((h << up) + 2 * pad_h - kh) // stride + 1, ((w << up) + 2 * pad_w - kw) // stride + 1
    x, weight = gpu.normal(n, h, w, i, kind=kind), gpu.normal(o, i, kh, kw, kind=kind, scale=(kh * kw * i) ** -0.5)
    bias, add = gpu.normal(o), gpu.normal(n, oh, ow, o, kind=kind) if residual else None
    shape = (n, oh, ow, pad(o))
    dst = gpu.room(shape, result)
    launch(gpu, weight, dst, gpu.put(nhwc(x), kind), gpu.put(np.pad(bias, (0, pad(o) - o))),
           gpu.put(nhwc(add), kind) if residual else 0,
           conv_struct(n, h, w, i, o, oh, ow, kh, kw, stride, pad_h, pad_w, up, int(relu), int(f32), groups), n, oh, ow)
    got = gpu.get(dst, shape, result)
    if got[..., o:].any():
        raise Fault("channels of padding are not zero")
    right = convolve(x.astype(np.float64), weight.astype(np.float64), bias, up, add, relu, stride, pad_h, pad_w)
    return got[..., :o], right, 1e-5 if f32 else CLOSE[kind]


def meeting_taps(weight, a, b):
    """The 2 x 2 sums of the nine taps under pixels of row parity a and column parity b, upsampled by two."""
    rows = [[0], [1, 2]] if a == 0 else [[0, 1], [2]]
    columns = [[0], [1, 2]] if b == 0 else [[0, 1], [2]]
    return np.stack([weight[:, :, r][..., c].sum((2, 3)) for r in rows for c in columns], -1)


def statistics_of(y, groups, up):
    """Mean, M2 and count of every group in every tile of 16 x 16 pixels (of each parity); y as stored."""
    n, h, w, c = y.shape
    parts = [y[:, a::2, b::2] for a in range(2) for b in range(2)] if up else [y]
    strips = []
    for top in range(0, parts[0].shape[1], 16):
        for left in range(0, parts[0].shape[2], 16):
            for part in parts:
                x = part[:, top:top + 16, left:left + 16].reshape(n, -1, groups, c // groups).astype(np.float64)
                mean = x.mean((1, 3))
                strips.append(np.stack([mean, ((x - mean[:, None, :, None]) ** 2).sum((1, 3)),
                                        np.full(mean.shape, x.shape[1] * x.shape[3]), 0 * mean], -1))
    return np.stack(strips, 1)


@case(128, 2, 3, 3, 1, 17, 5, 40, 136, residual=True, groups=34)
@case(128, 2, 3, 3, 1, 3, 6, 16, 128, groups=4)
@case(128, 2, 2, 3, 1, 16, 16, 24, 128, relu=True)
@case(128, 2, 3, 3, 1, 3, 16, 72, 128, _order="warp", _seed=1)
@case(64, 1, 3, 3, 1, 16, 18, 33, 64, residual=True, relu=True, groups=8)
@case(64, 1, 3, 3, 1, 16, 9, 64, 64, groups=4, _order="warp")
@case(16, 1, 3, 3, 1, 16, 16, 64, 3, f32=True)
@case(16, 1, 3, 3, 1, 9, 16, 56, 12, groups=3, _order="warp", _late=False)
@case(128, 2, 2, 3, 1, 5, 7, 40, 128, groups=1)
@case(128, 2, 3, 2, 1, 2, 9, 56, 128, groups=16)
@case(128, 2, 3, 2, 1, 9, 3, 24, 130)
@case(128, 2, 3, 2, 1, 4, 17, 24, 128, groups=32)
@case(128, 2, 3, 2, 1, 4, 4, 40, 128, _order="warp", _late=False)
@case(64, 1, 3, 2, 1, 8, 3, 50, 64, groups=16)
@case(64, 1, 3, 2, 1, 17, 3, 65, 40)
@case(16, 1, 3, 2, 1, 8, 8, 12, 16, groups=4)
@case(16, 1, 3, 2, 1, 2, 3, 72, 12)
def conv3x3(columns, warps_n, stages, taps, n, h, w, i, o, gpu, groups=0, **options):
    up, statistics = int(taps == 2), {}

    def launch(gpu, weight, dst, src, bias, add, conv, n, oh, ow):
        across = blocks(o, columns)
        parts = ([meeting_taps(weight, a, b) for a in range(2) for b in range(2)] if up else
                 [weight.reshape(o, i, 9)])
        spread = np.concatenate(parts, -1)
        packed = np.zeros((blocks(pad(i), 16), spread.shape[2], across * columns, 16), np.float32)
        for out in range(o):
            row = permuted(out, 16 if columns == 16 else 32)
            for c in range(i):
                packed[c // 16, :, row, c % 16] = spread[out, c]
        side, tiles = 15 + taps, (4 * blocks(h, 16) * blocks(w, 16) if up else blocks(oh, 16) * blocks(ow, 16))
        statistics["shape"] = (n, tiles, groups, 4)
        statistics["at"] = gpu.room(statistics["shape"]) if groups else 0
        gpu.launch("conv3x3ILi%dELi%dELi%dELi%dE" % (columns, warps_n, stages, taps), (across, tiles, n), 256,
                   stages * (blocks(side * side, 16) * 16 + taps * taps * columns) * 32,
                   dst, src, gpu.put(packed, BF16), bias, add, conv, across * columns, statistics["at"])
    got, right, bound = convolution(gpu, launch, n, h, w, i, o, up=up, groups=groups, **options)
    if groups:
        error = difference(gpu.get(statistics["at"], statistics["shape"]), statistics_of(got, groups, up))
        if error > 1e-5:
            raise Fault("statistics: error %.2g" % error)
    return got, right, bound


@case(2, 9, 9, 24, 72, kh=1, kw=1, pad_h=0, pad_w=0, residual=True)
@case(1, 17, 17, 20, 40, kh=1, kw=7, pad_h=0, pad_w=3)
@case(1, 15, 15, 16, 64, stride=2, pad_h=0, pad_w=0, relu=True)
@case(1, 6, 5, 12, 20, up=1)
@case(1, 10, 10, 8, 8, kh=5, kw=5, pad_h=2, pad_w=2, f32=True, _order="warp")
def conv_gemm(n, h, w, i, o, gpu, **options):
    def launch(gpu, weight, dst, src, bias, add, conv, n, oh, ow):
        taps = weight.shape[2] * weight.shape[3]
        across, k = blocks(o, 64), blocks(taps * pad(i), 32) * 32
        packed = np.zeros((across * 64, k), np.float32)
        for out in range(o):
            spread = np.zeros((taps, pad(i)), np.float32)
            spread[:, :i] = weight[out].reshape(i, taps).T
            packed[permuted(out, 32), :taps * pad(i)] = spread.reshape(-1)
        gpu.launch("conv_gemm", blocks(n * oh * ow, 128) * across, 128, 49152, dst, src, gpu.put(packed, BF16), bias,
                   add, conv, k, across)
    return convolution(gpu, launch, n, h, w, i, o, **options)


@case(2, 9, 9, 24, 72)
@case(1, 8, 8, 12, 64, up=1, residual=True, relu=True)
@case(1, 15, 15, 3, 32, stride=2, pad_h=0, pad_w=0, _order="warp")
def conv_f32(n, h, w, i, o, gpu, **options):
    def launch(gpu, weight, dst, src, bias, add, conv, n, oh, ow):
        taps, across = weight.shape[2] * weight.shape[3], blocks(o, 64)
        packed = np.zeros((taps, pad(i), across * 64), np.float32)
        packed[:, :i, :o] = weight.reshape(o, i, taps).transpose(2, 1, 0)
        gpu.launch("conv_f32", blocks(n * oh * ow, 64) * across, 256, 0, dst, src, gpu.put(packed), bias, add, conv,
                   across)
    return convolution(gpu, launch, n, h, w, i, o, kind=F32, **options)


# ---- tokens ----

def rotated(x, weight, rope):
    """RMSNorm over the head, then rotation of neighbouring pairs; x (B, T, NH, D)."""
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weight
    cosine, sine = rope.astype(np.float64)[:, :, None]
    a, b = x[..., ::2], x[..., 1::2]
    return np.stack([a * cosine - b * sine, a * sine + b * cosine], -1).reshape(x.shape)


@case(BF16, 1, 276, 1)
@case(BF16, 2, 84, 2, together=True)
@case(BF16, 1, 130, 1, keys=64)
@case(BF16, 1, 37, 1, _order="warp")
@case(BF16, 1, 130, 1, keys=64, _order="warp", _late=False)
@case(BF16, 1, 1, 1)
@case(BF16, 1, 130, 2, D=80)
@case(BF16, 1, 100, 1, D=80, keys=32, _order="warp")
@case(BF16, 1, 112, 2, tiles=2)
@case(BF16, 1, 50, 1, tiles=2, _order="warp")
@case(BF16, 1, 112, 1, D=80, tiles=2)
@case(BF16, 1, 50, 1, D=80, tiles=2, _order="warp")
@case(F32, 1, 84, 2)
@case(F32, 1, 150, 1, D=80)
@case(F32, 1, 40, 1, _order="warp")
def attention(kind, B, T, NH, gpu, D=64, keys=None, together=False, tiles=1):
    qkv = gpu.normal(B, T, 3, NH, D, kind=kind)
    q_norm, k_norm = 1 + 0.3 * gpu.normal(D), 1 + 0.3 * gpu.normal(D)
    angle = 2 * gpu.normal(T, D // 2)
    rope = np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)
    dst = gpu.room((B, T, NH, D), kind)
    arguments = [dst, gpu.put(qkv, kind), gpu.put(q_norm), gpu.put(k_norm), gpu.put(rope), T, NH]
    if kind == F32:
        gpu.launch("attention_f32ILi%dE" % D, (NH, B, blocks(T, 128)), 128, 0, *arguments)
    else:
        keys = keys or blocks(T, 32) * 32
        parts = 1 if together or tiles == 2 else blocks(T, 96)
        gpu.launch("attention_bf16ILi%dELi%dE" % (D, tiles), (NH, B, parts), 192 // tiles, 2 * keys * D * 2,
                   *arguments, keys)
        if tiles == 2:  # the same bits as one tile a warp
            again = gpu.room((B, T, NH, D), kind)
            gpu.launch("attention_bf16ILi%dELi1E" % D, (NH, B, blocks(T, 96)), 192, 2 * keys * D * 2, again,
                       *arguments[1:], keys)
            if not np.array_equal(gpu.get(dst, (B, T, NH, D), kind), gpu.get(again, (B, T, NH, D), kind)):
                raise Fault("two tiles a warp have other bits than one")
    x = qkv.astype(np.float64)
    q, k, v = rotated(x[:, :, 0], q_norm, rope), rotated(x[:, :, 1], k_norm, rope), x[:, :, 2]
    p = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(D)
    p = np.exp(p - p.max(-1, keepdims=True))
    right = np.einsum("bhts,bshd->bthd", p / p.sum(-1, keepdims=True), v)
    return gpu.get(dst, right.shape, kind), right, 8e-3 if kind == BF16 else CLOSE[F32]


@case(3, 300)
@case(2, 1100, in_place=True)
@case(2, 17, _order="warp")
def softmax(rows, cols, gpu, in_place=False):
    x = gpu.normal(rows, cols, scale=3)
    src = gpu.put(x)
    dst = src if in_place else gpu.room(x.shape, F32)
    gpu.launch("softmax", rows, 256, 0, dst, src, cols)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return gpu.get(dst, x.shape, F32), e / e.sum(1, keepdims=True), CLOSE[F32]


@case(F32, 2, 9, 3, 100)
@case(BF16, 2, 9, 0, 128, weight=False)
@case(F32, 1, 5, 0, 512)
@case(BF16, 1, 5, 2, 396)
@case(F32, 1, 9, 1, 768)
@case(BF16, 1, 9, 0, 640)
@case(F32, 1, 5, 0, 1000)
@case(BF16, 2, 21, 20, 1024)
@case(F32, 1, 9, 2, 1152)
@case(BF16, 1, 9, 0, 1280)
@case(F32, 1, 5, 0, 131)
@case(BF16, 1, 3, 0, 1284)
def rms_norm(kind, B, T, t0, C, gpu, weight=True):
    x, scale, rows = gpu.normal(B, T, C), gpu.normal(C), B * (T - t0)
    dst = gpu.room((rows, C), kind)
    name = ("rms_norm_plainI%sE" % kind if C % 4 or C > 1280 else
            "rms_normI%sLi%dE" % (kind, next(v for v in (1, 4, 6, 8, 10) if C <= 128 * v)))
    gpu.launch(name, blocks(rows, 8), 256, 0, dst, gpu.put(x), gpu.put(scale) if weight else 0, rows, T - t0, T, t0, C,
               1e-6)
    x = x.astype(np.float64)[:, t0:]
    right = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * (scale if weight else 1)
    return gpu.get(dst, right.shape, kind), right, CLOSE[kind]


@case(F32, F32, 37, 41, 70)
@case(BF16, F32, 37, 41, 70, add=1)
@case(BF16, BF16, 33, 20, 40)
@case(F32, BF16, 20, 33, 65, add=1, _order="warp")
def linear(kind, result, M, N, K, gpu, add=0):
    x, w = gpu.normal(M, K, kind=kind), gpu.normal(N, K, kind=kind, scale=K ** -0.5)
    bias, before = gpu.normal(N), gpu.normal(M, N, kind=result)
    dst = gpu.put(before, result)
    gpu.launch("linearI%s%sE" % (kind, result),
               (blocks(N, 32), blocks(M, 32)), 256, 0, dst, gpu.put(x, kind), gpu.put(w, kind), gpu.put(bias), M, N, K,
               K, K, add)
    right = x.astype(np.float64) @ w.T.astype(np.float64) + bias + add * before
    return gpu.get(dst, (M, N), result), right, CLOSE[result]


@case(BF16, 9, 352, 352)
@case(BF16, 9, 341, 352)
@case(F32, 9, 344, 352)
@case(F32, 5, 33, 48)
def swiglu(kind, rows, M, Mp, gpu):
    x, dst, wide = gpu.normal(rows, 2 * Mp, kind=kind), gpu.room((rows, M), kind), 8 if M % 8 == 0 else 1
    gpu.launch("swiglu%dI%sE" % (wide, kind), blocks(rows * M // wide, 256), 256, 0, dst, gpu.put(x, kind), rows * M, M, Mp)
    a, b = x[:, :M].astype(np.float64), x[:, Mp:Mp + M].astype(np.float64)
    return gpu.get(dst, (rows, M), kind), silu(a) * b, CLOSE[kind]


@case(BF16, 1001)
@case(F32, 300)
def silu_in_place(kind, n, gpu):
    x = gpu.normal(n, kind=kind)
    at = gpu.put(x, kind)
    gpu.launch("siluI%sE" % kind, blocks(n, 256), 256, 0, at, n)
    return gpu.get(at, n, kind), silu(x.astype(np.float64)), CLOSE[kind]


@case(BF16, BF16, 8)
@case(BF16, F32, 8)
@case(F32, BF16, 8)
@case(F32, F32, 8)
@case(BF16, BF16, 1)
@case(BF16, F32, 1)
@case(F32, BF16, 1)
@case(F32, F32, 1)
def convert(to, kind, wide, gpu):
    rows, cols, ld_src, ld_dst = (7, 40, 48, 64) if wide == 8 else (7, 41, 45, 51)
    x, dst = gpu.normal(rows, ld_src, kind=kind), gpu.room((rows, ld_dst), to)
    types = to + kind
    gpu.launch("convert%dI%sE" % (wide, types), blocks(rows * ld_dst // wide, 256), 256, 0, dst, ld_dst, gpu.put(x, kind),
               ld_src, rows * ld_dst, cols)
    right = np.zeros((rows, ld_dst))
    right[:, :cols] = x[:, :cols]
    return gpu.get(dst, right.shape, to), right, CLOSE[to]


# ---- before and after the blocks ----

@case(5)
def scalar_embed(rows, gpu):
    values, dst = gpu.random.uniform(0, 10, rows).astype(np.float32), gpu.room((rows, 256))
    gpu.launch("scalar_embed", blocks(rows * 128, 256), 256, 0, dst, gpu.put(values), rows)
    angle = values[:, None].astype(np.float64) * np.exp(-np.log(1e4) * np.arange(128) / 128)
    return gpu.get(dst, (rows, 256)), np.concatenate([np.cos(angle), np.sin(angle)], 1), 1e-6


def patches_of(z, p):
    """(B, C, S, S) as rows of patches (B, P, C p p)."""
    B, C, S, _ = z.shape
    return z.reshape(B, C, S // p, p, S // p, p).transpose(0, 2, 4, 1, 3, 5).reshape(B, (S // p) ** 2, C * p * p)


@case(F32, 3, 3, 10, 2)
@case(BF16, 3, 3, 10, 2)
def patchify(kind, B, C, S, p, gpu):
    z = gpu.normal(B, C, S, S, kind=kind)
    right = patches_of(z, p)
    dst = gpu.room(right.shape, kind)
    gpu.launch("patchifyI%sE" % kind, blocks(z.size, 256), 256, 0, dst, gpu.put(z), z.size, C, S, p)
    return gpu.get(dst, right.shape, kind), right.astype(np.float64), 0.0


@case(3, 3, 10, 2, 0)
@case(3, 3, 10, 2, 1)
def euler(B, C, S, p, predicts_x, gpu):
    z, out, dt = gpu.normal(B, C, S, S), gpu.normal(B, C, S, S), gpu.normal(B)
    at, side = gpu.put(z), S // p
    patches = out.reshape(B, C, side, p, side, p).transpose(0, 2, 4, 3, 5, 1)  # channels last, unlike patchify's
    gpu.launch("euler", blocks(z.size, 256), 256, 0, at, gpu.put(patches), predicts_x, gpu.put(dt), z.size, C, S, p)
    u = z.astype(np.float64) - out if predicts_x else out
    return gpu.get(at, z.shape), z - dt[:, None, None, None].astype(np.float64) * u, 1e-6


@case(2, 5, 72)
@case(2, 5, 72, positions=True)
@case(2, 3, 27, positions=True)
@case(2, 3, 27)
def assemble(B, P, D, gpu, positions=False):
    tokens, classes, scalars = gpu.normal(20, D), gpu.normal(7, D), gpu.normal(4, B, D)
    patches, labels, learned = gpu.normal(B, P, D), np.array([6, 2], np.int32), gpu.normal(P, D)
    dst = gpu.room((B, 20 + P, D))
    gpu.launch("assemble", B * (20 + P), 256, 0, dst, gpu.put(tokens), gpu.put(classes), gpu.put(labels),
               gpu.put(scalars), gpu.put(patches), gpu.put(learned) if positions else 0, B, P, D)
    added = [np.repeat(classes[labels][:, None], 8, 1)]
    added += [np.repeat(scalars[s][:, None], count, 1) for s, count in enumerate((4, 2, 2, 4))]
    right = np.concatenate([np.concatenate(added, 1) + tokens, patches + positions * learned], 1).astype(np.float64)
    return gpu.get(dst, right.shape), right, 1e-7


# ---- pictures ----

@case(BF16, 2, 20, 20, 128, 32, True)
@case(BF16, 1, 8, 8, 512, 32, False, _order="warp")
@case(F32, 1, 9, 9, 36, 12, True)
@case(BF16, 1, 7, 7, 40, 5, True)
@case(BF16, 1, 64, 64, 64, 32, True)
@case(F32, 1, 12, 12, 4, 2, False)
def group_norm(kind, n, h, w, C, groups, after, gpu):
    x = gpu.normal(n, h, w, C, kind=F32) + 0.7
    x = from_bf16(to_bf16(x)) if kind == BF16 else x
    gamma, beta, Cp = gpu.normal(C), gpu.normal(C), pad(C)
    strip = max(1, 32768 // Cp)
    strips, vectors = blocks(h * w, strip), Cp // 8
    stride = vectors * 4 if vectors < 2 else vectors * 4 + (48 - vectors * 4 % 32) % 32
    src, dst = gpu.put(nhwc(x), kind), gpu.room((n, h, w, Cp), kind)
    partial, scale_shift = gpu.room((n, strips, groups, 4)), gpu.room((n, 2, Cp))
    gpu.launch("statisticsI%sE" % kind, (strips, n), 256, 4 * (256 // vectors * 4 * stride + 2 * Cp), partial, src,
               h * w, strip, C, Cp, groups)
    gpu.launch("combine", (groups, n), 32, 0, scale_shift, partial, gpu.put(gamma), gpu.put(beta), strips, h * w, C, Cp,
               groups, 1e-6)
    gpu.launch("applyI%sLb%dE" % (kind, after), (strips, n), 256, 0, dst, src, scale_shift, h * w, strip, Cp)
    got = gpu.get(dst, (n, h, w, Cp), kind)
    if got[..., C:].any():
        raise Fault("channels of padding are not zero")
    x = x.astype(np.float64).reshape(n, h * w, groups, C // groups)
    mean, variance = x.mean((1, 3), keepdims=True), x.var((1, 3), keepdims=True)
    right = ((x - mean) / np.sqrt(variance + 1e-6)).reshape(n, h, w, C) * gamma + beta
    return got[..., :C], silu(right) if after else right, 4e-3 if kind == BF16 else 3e-6


@case(BF16, 2, 4, 9, 7, 1)
@case(F32, 1, 20, 5, 6, 0)
def image_from_latent(kind, n, C, H, W, clamp, gpu):
    z, scale, shift = gpu.normal(n, C, H, W, scale=3), gpu.normal(C), gpu.normal(C)
    shape = (n, H, W, pad(C))
    dst, total = gpu.room(shape, kind), n * H * W * pad(C) // 8
    gpu.launch("image_from_latentI%sE" % kind, blocks(total, 256), 256, 0, dst, gpu.put(z), gpu.put(scale),
               gpu.put(shift), clamp, total, C, H * W)
    right = z.transpose(0, 2, 3, 1).astype(np.float64) * scale + shift
    return gpu.get(dst, shape, kind), nhwc(3 * np.tanh(right / 3) if clamp else right), CLOSE[kind]


@case(BF16, 1, 9, 9, 20, 1, 3, 2, 0)
@case(F32, 1, 9, 8, 20, 1, 3, 2, 1)
@case(BF16, 2, 8, 8, 8, 0, 3, 1, 1)
@case(F32, 1, 8, 8, 12, 0, 3, 1, 1)
def pool2d(kind, n, h, w, C, most, k, stride, border, gpu):
    x = nhwc(gpu.normal(n, h, w, C, kind=kind))
    oh, ow = (h + 2 * border - k) // stride + 1, (w + 2 * border - k) // stride + 1
    shape = (n, oh, ow, pad(C))
    dst, total = gpu.room(shape, kind), int(np.prod(shape)) // 8
    gpu.launch("pool2dI%sLb%dE" % (kind, most), blocks(total, 256), 256, 0, dst, gpu.put(x, kind), k, stride, border,
               total, h, w, pad(C) // 8, oh, ow)
    x = np.pad(x.astype(np.float64), ((0, 0), (border, border), (border, border), (0, 0)), constant_values=np.nan)
    windows = np.stack([x[:, a:a + oh * stride:stride, b:b + ow * stride:stride][:, :oh, :ow]
                        for a in range(k) for b in range(k)])
    return gpu.get(dst, shape, kind), (np.nanmax if most else np.nanmean)(windows, 0), CLOSE[kind]


@case(BF16, 24, 16, 40, 8)
@case(F32, 24, 16, 40, 8)
@case(BF16, 11, 5, 16, 1)
@case(F32, 11, 5, 19, 1)
def concat(kind, C, c0, dst_C, wide, gpu):
    pixels = 41
    x, before = gpu.normal(1, pixels, 1, C, kind=kind), gpu.normal(1, pixels, 1, pad(dst_C), kind=kind)
    dst, src = gpu.put(before, kind), gpu.put(nhwc(x), kind)
    if wide == 8:
        gpu.launch("concat8I%sE" % kind, blocks(pixels * C // 8, 256), 256, 0, dst, src, pixels * C // 8, C // 8,
                   pad(dst_C), c0)
    else:
        total = pixels * (pad(dst_C) - c0 if c0 + C == dst_C else C)
        gpu.launch("concat1I%sE" % kind, blocks(total, 256), 256, 0, dst, src, total, C, dst_C, c0)
    right = before.astype(np.float64)
    right[..., c0:c0 + C] = x
    if c0 + C == dst_C:
        right[..., dst_C:] = 0
    return gpu.get(dst, right.shape, kind), right, 0.0


@case(BF16, 43, 20)
@case(F32, 43, 24)
def image_to_tokens(kind, pixels, C, gpu):
    x, dst = gpu.normal(1, pixels, 1, C, kind=kind), gpu.room((pixels, C))
    total = pixels * pad(C) // 8
    gpu.launch("image_to_tokensI%sE" % kind, blocks(total, 256), 256, 0, dst, gpu.put(nhwc(x), kind), total, C)
    return gpu.get(dst, (pixels, C)), x[0, :, 0].astype(np.float64), 0.0


@case(BF16, 43, 20, 1)
@case(F32, 43, 24, 1)
@case(F32, 43, 20, 0)
def tokens_to_image(kind, pixels, C, add, gpu):
    x, before = gpu.normal(1, pixels, 1, C), nhwc(gpu.normal(1, pixels, 1, C, kind=kind))
    dst, total = gpu.put(before, kind), pixels * pad(C) // 8
    gpu.launch("tokens_to_imageI%sE" % kind, blocks(total, 256), 256, 0, dst, gpu.put(x), total, C, add)
    return gpu.get(dst, before.shape, kind), nhwc(x.astype(np.float64)) + add * before, CLOSE[kind]


@case(BF16, 2, 49, 20)
@case(F32, 3, 50, 36)
def global_mean(kind, n, pixels, C, gpu):
    x, dst = gpu.normal(n, pixels, 1, C, kind=kind), gpu.room((n, C))
    total = n * pad(C) // 8
    gpu.launch("global_meanI%sE" % kind, blocks(total, 256), 256, 0, dst, gpu.put(nhwc(x), kind), total, pixels, C)
    return gpu.get(dst, (n, C)), x.astype(np.float64).mean((1, 2)), 1e-6


@case(BF16, 2, 9, 7, 20, 20)
@case(F32, 1, 20, 21, 9, 9)
def resize_rgb8(kind, n, H, W, oh, ow, gpu):
    rgb, shape = gpu.random.integers(0, 256, (n, H, W, 3)).astype(np.uint8), (n, oh, ow, 8)
    dst = gpu.room(shape, kind)
    gpu.launch("resize_rgb8I%sE" % kind, blocks(n * oh * ow, 256), 256, 0, dst, gpu.put(rgb), n * oh * ow, H, W, oh, ow)
    y = (np.arange(oh, dtype=np.float32) * (np.float32(H) / np.float32(oh))).astype(np.float64)
    x = (np.arange(ow, dtype=np.float32) * (np.float32(W) / np.float32(ow))).astype(np.float64)
    y0, x0 = y.astype(int), x.astype(int)
    y1, x1 = np.minimum(y0 + 1, H - 1), np.minimum(x0 + 1, W - 1)
    fy, fx, p = (y - y0)[:, None, None], (x - x0)[:, None], rgb.astype(np.float64)
    upper = p[:, y0][:, :, x0] * (1 - fx) + p[:, y0][:, :, x1] * fx
    lower = p[:, y1][:, :, x0] * (1 - fx) + p[:, y1][:, :, x1] * fx
    return gpu.get(dst, shape, kind), nhwc((upper * (1 - fy) + lower * fy - 128) / 128), CLOSE[kind]


@case(BF16, 1001)
@case(F32, 66)
def to_rgb8(kind, pixels, gpu):
    x, dst = gpu.normal(pixels, 8, kind=kind), gpu.memory.reserve(pixels * 3)
    gpu.launch("to_rgb8I%sE" % kind, blocks(blocks(pixels, 4), 256), 256, 0, dst, gpu.put(x, kind), 127.5, 127.5, pixels)
    got = gpu.memory.load(dst, np.uint8, (pixels, 3)).astype(np.float32)
    return got, np.rint(np.clip(x[:, :3].astype(np.float64) * 127.5 + 127.5, 0, 255)), 1e-3

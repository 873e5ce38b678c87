"""Cases of the kernels that are compiled for sm_90a alone; see cases.py."""
import numpy as np

from cases import BF16, blocks, case, convolution, difference, meeting_taps, pad, permuted
from ptx import Fault


def statistics_of_runs(y, groups, up):
    """The same in every 256 neighbouring pixels (of each parity)."""
    n, _, _, c = y.shape
    parts = [y[:, a::2, b::2] for a in range(2) for b in range(2)] if up else [y]
    parts = [part.reshape(n, -1, groups, c // groups).astype(np.float64) for part in parts]
    strips = []
    for first in range(0, parts[0].shape[1], 256):
        for part in parts:
            x = part[:, first:first + 256]
            mean = x.mean((1, 3))
            strips.append(np.stack([mean, ((x - mean[:, None, :, None]) ** 2).sum((1, 3)),
                                    np.full(mean.shape, x.shape[1] * x.shape[3]), 0 * mean], -1))
    return np.stack(strips, 1)


@case(1, 17, 17, 64, 136, residual=True, groups=17, _order="warp")
@case(3, 4, 6, 72, 128, clusters=1, groups=4, relu=True, _order="first")
@case(1, 5, 3, 64, 136, up=1, clusters=3, groups=34)
@case(1, 16, 17, 64, 72, up=1, residual=True, _late=False, _order="warp")
@case(2, 7, 5, 200, 128, kh=1, residual=True)
@case(1, 3, 3, 64, 100, f32=True)
def conv_sm90(n, h, w, i, o, gpu, clusters=2, groups=0, kh=3, **options):
    up, statistics = options.get("up", 0), {}

    def launch(gpu, weight, dst, src, bias, add, conv, n, oh, ow):
        parts = ([meeting_taps(weight, a, b) for a in range(2) for b in range(2)] if up else
                 [weight.reshape(o, i, kh * kh)])
        across, chunks, taps = blocks(o, 128), blocks(i, 64), parts[0].shape[2]
        packed = np.zeros((across * 128, len(parts), chunks, taps, 64), np.float32)
        for out in range(o):
            for c in range(i):
                packed[permuted(out, 32), :, c // 64, :, c % 64] = [part[out, c] for part in parts]
        runs, k = blocks(h * w, 256), packed[0].size
        statistics["shape"] = (n, runs * len(parts), groups, 4)
        statistics["at"] = gpu.room(statistics["shape"]) if groups else 0
        corner = (-(kh // 2), -(kh // 2))
        pixels = gpu.tensor_map(src, (pad(i), w, h, n), (2 * pad(i), 2 * w * pad(i), 2 * h * w * pad(i)), lower=corner,
                                upper=corner, channels=64, pixels=256)
        weights = gpu.tensor_map(gpu.put(packed, BF16), (k, across * 128), (2 * k,), box=(64, 64))
        works = len(parts) * blocks(n * runs, 2) * across
        gpu.launch("conv_sm90", 2 * min(clusters, works), 384, 4096 + 64 + 1024 + 4 * 49152, dst, pixels, weights, bias,
                   add, conv, statistics["at"])
    got, right, bound = convolution(gpu, launch, n, h, w, i, o, kh=kh, kw=kh, pad_h=kh // 2, pad_w=kh // 2,
                                    groups=groups, **options)
    if groups:
        error = difference(gpu.get(statistics["at"], statistics["shape"]), statistics_of_runs(got, groups, up))
        if error > 1e-5:
            raise Fault("statistics: error %.2g" % error)
    return got, right, bound

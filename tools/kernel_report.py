#!/usr/bin/env python3
"""Writes docs/kernels.md from what the compiler, the emulator and the counting device say.

    tools/kernel_report.py --build build/cuda [--output docs/kernels.md]

Needs nvcc and a build of the cuda preset with tests (count_kernels, imfd, the emulated modules). Fails
when a kernel spills registers or a bound of docs/kernels.md is broken.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARCHS = ["sm_80", "sm_90"]
GPUS = {"H100": (990e12, 67e12, 3.35e12), "RTX4090": (165.2e12, 82.6e12, 1.008e12)}
LAUNCH = 1.5e-6

# What each kernel does and how it is cut; sizes that the compiler reports are not repeated here.
KERNELS = {
    "scalar_embed": ("cos and sin of a scalar's 128 frequencies", "1 pair a thread"),
    "patchify": ("latent to rows of patches", "1 element a thread"),
    "assemble": ("the sequence from learned tokens, embeddings and patches", "1 token a block"),
    "euler": ("z -= dt u, patches back to the latent", "1 element a thread"),
    "rms_norm": ("RMSNorm, float32 rows to bfloat16 or float32", "1 row a warp, row in registers"),
    "rms_norm_plain": ("the same for any width", "1 row a warp"),
    "attention_bf16": ("q and k norm, rotary embedding, softmax(q k^T) v", "queries of 1 head a block, 16 or 32 a warp (last argument 1 or 2), 32 keys a step; K, V swizzled in shared memory"),
    "attention_f32": ("the same in float32", "128 queries a block, 32 keys a tile"),
    "softmax": ("softmax of rows (attention of sd-vae)", "1 row a block"),
    "swiglu8": ("silu(a) b", "8 elements a thread"),
    "swiglu1": ("the same for odd widths", "1 element a thread"),
    "silu": ("silu in place", "1 element a thread"),
    "convert8": ("conversion and padding of rows", "8 elements a thread"),
    "convert1": ("the same for odd widths", "1 element a thread"),
    "linear": ("matrix product of any size, where cuBLASLt has no algorithm", "32 x 32 x 32"),
    "conv3x3": ("3x3 convolution (last argument 3) or one parity of an upsampled one (2), bias, residual, ReLU, statistics for GroupNorm", "16 x 16 pixels x 16, 64 or 128 channels x 16 input channels; 2 or 3 cp.async stages"),
    "conv_sm90": ("3x3 and 1x1 convolutions, also upsampled, bias, residual, ReLU, statistics for GroupNorm; off by default", "256 pixels x 128 channels x 64 input channels; wgmma, 4 TMA stages, clusters of 2"),
    "conv_gemm": ("k x k convolution as implicit product", "128 pixels x 64 channels x 32; 4 cp.async stages"),
    "conv_f32": ("k x k convolution in float32", "64 x 64 x 16"),
    "statistics": ("GroupNorm: mean and M2 of a strip", "64 KiB strip a block"),
    "combine": ("GroupNorm: strips to scale and shift", "1 group a warp"),
    "apply": ("GroupNorm: scale, shift, SiLU", "64 KiB strip a block"),
    "image_from_latent": ("latent to NHWC", "8 channels a thread"),
    "pool2d": ("max and average pools", "8 channels a thread"),
    "concat8": ("channel concatenation", "8 channels a thread"),
    "concat1": ("the same at odd seams", "1 channel a thread"),
    "image_to_tokens": ("NHWC to float32 tokens", "8 channels a thread"),
    "tokens_to_image": ("float32 tokens to NHWC, optional addition", "8 channels a thread"),
    "global_mean": ("mean over the picture", "8 channels a thread"),
    "resize_rgb8": ("TensorFlow 1's bilinear resize of bytes", "1 pixel a thread"),
    "to_rgb8": ("scale, shift, round to bytes", "4 pixels a thread"),
}


def compile_report(nvcc, arch, source):
    """[(kernel with template arguments, registers, static shared bytes, spill bytes)]"""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*nvcc.split(), "-std=c++17", f"-gencode=arch={arch.replace('sm', 'compute')},code={arch}",
             "-Werror", "all-warnings", "-Xptxas", "-v", "-c", str(source), "-o", f"{folder}/out.o"],
            capture_output=True, text=True, check=False)
    text = done.stderr + done.stdout
    if done.returncode:
        sys.exit(f"{source}: nvcc failed\n{text}")
    found, name, spills = [], None, 0
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spills = int(match[1]) + int(match[2])
        elif (match := re.search(r"Used (\d+) registers", line)) and name:
            smem = re.search(r"(\d+) bytes smem", line)
            found.append((name, int(match[1]), int(smem[1]) if smem else 0, spills))
            name = None
    return found


def demangle(names):
    out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                         check=True).stdout.splitlines()
    short = []
    for text in out:
        text = re.sub(r"^(void|[\w ]+?) (?=\w+[<(])", "", text)
        text = re.sub(r"\(.*$", "", text.replace("(bool)", "").replace("(int)", ""))
        text = text.replace("unsigned short", "bf16").replace("true", "1").replace("false", "0")
        short.append(text)
    return short


def compile_table(nvcc, errors):
    rows = {}
    for source in sorted((ROOT / "kernels").glob("*.cu")):
        for arch in ARCHS:
            if source.stem.endswith("_sm90") and arch != "sm_90":
                continue
            report = compile_report(nvcc, arch + "a" * source.stem.endswith("_sm90"), source)
            for name, (_, registers, smem, spills) in zip(demangle([r[0] for r in report]), report):
                rows.setdefault((source.name, name), {})[arch] = (registers, smem, spills)
                if spills:
                    errors.append(f"{name} spills {spills} bytes on {arch}")
    return rows


def emulator_environment(build):
    folder = pathlib.Path(build) / "tests/cuda_emu"
    return dict(os.environ, IMFD_CUDA_DRIVER=str(folder / "libcuda_emu.so"),
                IMFD_CUDA_MODULE=str(folder / "libimf_cuda_checked.so"))


def count(build, errors):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        done = subprocess.run([str(pathlib.Path(build) / "tests/cuda_device/count_kernels"), out.name],
                              env=emulator_environment(build), capture_output=True, text=True,
                              check=False)
        if done.returncode:
            errors.append("count_kernels: " + done.stdout + done.stderr)
        return json.load(open(out.name, encoding="utf-8"))


def predict(build, gpu, model, batch):
    done = subprocess.run([str(pathlib.Path(build) / "server/imfd"), "bench", "--model", model,
                           "--decoder", "sd-vae", "--roofline", gpu, "--batch", str(batch), "--json"],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def microseconds(case, gpu):
    bf16, f32, bandwidth = GPUS[gpu]
    rate = bf16 if case["tensor"] else f32
    return 1e6 * (max(case["dram"] / bandwidth, case["flops"] / rate)
                  + case["launches"] * LAUNCH)


def write_compiled(out, rows):
    out.append("## Kernels as compiled\n")
    out.append("Registers a thread and static shared memory in bytes, from `ptxas -v`; dynamic shared "
               "memory is in the next table. Types of a template come first in angle brackets.\n")
    out.append("| kernel | what it does | tile | "
               + " | ".join(f"registers {a} | shared {a} | spills {a}" for a in ARCHS) + " |")
    out.append("|---|---|---|" + "---:|---:|---:|" * len(ARCHS))
    for (source, name), by_arch in rows.items():
        what, tile = KERNELS.get(re.sub(r"<.*", "", name), ("", ""))
        cells = " | ".join(" | ".join(str(x) for x in by_arch.get(a, ("-",) * 3)) for a in ARCHS)
        out.append(f"| `{name}` ({source}) | {what} | {tile} | {cells} |")


def write_counted(out, cases):
    out.append("\n## Bytes, bank conflicts and roofline by operation\n")
    out.append("Counted by the emulator on the kernels themselves, bfloat16, one sample. *DRAM*: distinct "
               "32-byte sectors per launch, what an ideal L2 fetches; *least*: every operand once; *L2*: "
               "sectors asked of L2, over least. Bounds: 1.3 for element-wise and norm kernels, 1.5 for "
               "convolutions and products. Times: max(bytes / bandwidth, FLOPs / rate) + 1.5 us a "
               "launch.\n")
    out.append("| operation | launches | dynamic shared | DRAM MB | least MB | DRAM / least | bound | L2 / "
               "least | bank conflicts | H100 us | RTX 4090 us |")
    out.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for c in cases:
        smem = max(k["dynamic_smem"] for k in c["kernels"])
        out.append(f"| {c['case']} | {c['launches']} | {smem} | {c['dram'] / 1e6:.3f} | "
                   f"{c['least'] / 1e6:.3f} | {c['dram'] / c['least']:.2f} | {c['bound']:.1f} | "
                   f"{c['l2'] / c['least']:.2f} | {c['conflicts']:.0f} | "
                   f"{microseconds(c, 'H100'):.1f} | {microseconds(c, 'RTX4090'):.1f} |")


# By hand: `cuobjdump -sass` and `ptxas -v` for sm_90; the counting device fills in the rest.
CHANGED = """
## What bounds them

Instructions between a stage's barrier and its first HMMA, and registers a thread, sm_90, by `cuobjdump -sass` and
`ptxas -v`. Few, because copies of the weights have constant strides, decided at compile time:

| kernel | columns | instructions | registers |
|---|---:|---:|---:|
| conv3x3 | 128, 3 stages | 125 | 248 |
| conv3x3 | 128, 2 stages | 125 | 240 |
| conv3x3 | 64 | 109 | 128: two blocks an SM |
| conv3x3 | 16 | 107 | 64 |
| conv3x3 after x2 upsampling | 128 | 106 | 240 |
| conv3x3 after x2 upsampling | 64 | 85 | 128: two blocks an SM |
| conv3x3 after x2 upsampling | 16 | 89 | 48 |

Counted for MiT_XL_2 and sd-vae at batch 64: with upsampling by four 2 x 2 convolutions of summed taps a decoding takes
%.1f TFLOP (nine taps of repeated pixels: 40.0); with the statistics of GroupNorm in the epilogue of the convolution
before it %.1f GB and %d launches (in passes of their own: 90.3 and 1096).

attention_bf16 at 276 tokens, heads of 64 and full grids, with two tiles of 16 queries a warp and, for comparison, one;
a step is 16 queries by 32 keys:

| | one tile | two tiles |
|---|---:|---:|
| blocks of an SM, sm_90 | 2 of 6 warps | 3 of 3 warps |
| queries that an SM works on | 192 | 288 |
| bytes of K and V from shared memory a step | 8192 | 4096 |
| shared memory's clocks a step, at 128 bytes a clock | 64 | 32 |

The tensor cores take 51 clocks a step at 62 %% of their peak. Nine warps are at most three on a quarter of an SM, so
that 168 registers are the most. Keys are masked in the last step only. Grids of fewer than 256 heads keep one tile, and
every grid has the same bits.
"""


# The kernel of sm_90a that waits for a card: by `ptxas -v` and `cuobjdump -sass`.
CONV_SM90 = """
## conv_sm90: convolutions on wgmma

`IMFD_CONV_SM90=1` in the environment gives GPUs of compute capability 9.0 this kernel for convolutions of 3x3 and
1x1, stride 1, upsampled by two or not, from 64 input and 65 output channels up. It is off otherwise, and the
predictions above are without it: what nvcc makes of it passes the interpreter in `tests/ptx`, which takes out
every wait, fence and barrier in turn, but no card has run it.

Two blocks of a cluster make 256 pixels of one picture each, of the same 128 channels. A step is a tap and 64 input
channels: one im2col copy of the pixels under the tap (32 KiB; TMA walks the rows and fills the border with zeros)
and the weights (16 KiB), half of which each block fetches and sends to both. Four steps lie in a ring of `full` and
`empty` mbarriers; one thread copies, two warpgroups multiply 128 pixels each. As many clusters as fit take tile after
tile, so that the copies of the next tile fly during an epilogue. The sums' order is fixed: 64 channels, ky, kx.

| | |
|---|---:|
| threads | 384: two warpgroups of 232 registers, one of 40 (`setmaxnreg`; 168 at the launch) |
| shared memory | 201792 bytes of 232448 |
| spills | 0 |
| products a step and warpgroup | 8 `HGMMA.64x128x16` |
| instructions a step and warp | 129 (conv3x3 has 125 between a barrier and its first HMMA alone) |
| instructions from the wait to the first HGMMA | 36 |
| instructions a step of the copying thread | about 50 |

At peak a step takes the tensor cores 1024 cycles. What stands against it, per SM:

- L2: 32 KiB of pixels and 8 KiB of weights a step, 40 bytes a cycle, 9.3 TB/s for 132 SMs at 1.755 GHz. 5.5 to
  7 TB/s are reported for an H100: 60 to 75 % of peak. This is the likely limit; conv3x3 asks a seventh of the pixels
  (a halo in shared memory serves nine taps) and is limited by `mma.sync` instead.
- Shared memory: 96 KiB read by products and 48 KiB written by copies a step, 144 bytes a cycle of 128: 89 %.
- Power: cuBLASLt's products of such shapes reach 61 to 69 % of the data sheet's rate.
- The epilogue is not hidden behind products: 64 KiB written and perhaps 64 KiB read after 18 steps (128 input
  channels) to 72 (512).

Together half to three fifths of peak where conv3x3 is put at 43 %: 12 to 20 ms of the 76 ms that the 3x3 convolutions
above are estimated at. More would need two blocks that share pixels instead of weights (32 KiB a step, from 256
channels on), or a halo with operands that start at any row.
"""


def write_predicted(out, results, model, batch, depth, errors):
    out.append(f"\n## Predicted: {model} and sd-vae, batch {batch}\n")
    out.append("`imfd bench --model %s --decoder sd-vae --roofline GPU --batch %d`. *Peak*: at the GPU's peak "
               "rates, which no kernel beats. *Estimate*: at the shares of them that kernels of a kind reach; "
               "where each share is from stands in `engine/roofline/roofline.c`. A card is to be held against "
               "the estimate.\n" % (model, batch))
    out.append("| stage | launches | GFLOP | MB | H100 peak ms | estimate ms | RTX 4090 peak ms | estimate ms |")
    out.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    h100, ada = results["H100"]["parts"], results["RTX4090"]["parts"]
    for part, other in zip(h100, ada):
        for row, peer in list(zip(part["stages"], other["stages"])) + [(part, other)]:
            bold = "**" if row is part else ""
            out.append(f"| {bold}{row['stage']}{bold} | {row['launches']} | {row['gflop']:.1f} | "
                       f"{row['megabytes']:.1f} | {1e3 * row['seconds']:.3f} | "
                       f"{1e3 * row['estimate_seconds']:.3f} | {1e3 * peer['seconds']:.3f} | "
                       f"{1e3 * peer['estimate_seconds']:.3f} |")
    for gpu, parts in (("H100", h100), ("RTX 4090", ada)):
        seconds = sum(p["seconds"] for p in parts)
        floor = sum(p["floor_seconds"] for p in parts)
        estimate = sum(p["estimate_seconds"] for p in parts)
        out.append(f"\n{gpu}: estimated {1e3 * estimate:.0f} ms, {batch / estimate:.0f} pictures/s; "
                   f"{1e3 * seconds:.1f} ms at peak rates, {1e3 * floor:.1f} ms for the model's FLOPs alone.")
        if gpu == "H100" and seconds > 1.6 * floor:
            errors.append(f"predicted H100 time is {seconds / floor:.2f} x the floor (1.6 allowed)")
    per_block = h100[0]["launches"] / depth
    out.append(f"\nLaunches per step: {h100[0]['launches']}, {per_block:.1f} per block (12 allowed).")
    if per_block > 12:
        errors.append(f"{per_block:.1f} launches per block")
    decode = h100[1]
    out.append((CHANGED % (decode["gflop"] / 1e3, decode["megabytes"] / 1e3, decode["launches"])).rstrip())
    out.append(CONV_SM90.rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build/cuda"))
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--output", default=str(ROOT / "docs/kernels.md"))
    args = parser.parse_args()
    errors, out = [], []
    out.append("# CUDA kernels: what the compiler, the emulator and the roofline say\n")
    out.append("Generated by `tools/kernel_report.py`; do not edit. No figure here was measured on a GPU: "
               "see `gpu-bringup.md` for that.\n")
    write_compiled(out, compile_table(args.nvcc, errors))
    write_counted(out, count(args.build, errors))
    results = {gpu: predict(args.build, gpu, "MiT_XL_2", 64) for gpu in GPUS}
    write_predicted(out, results, "MiT_XL_2", 64, 48, errors)
    pathlib.Path(args.output).write_text("\n".join(out) + "\n", encoding="utf-8")
    for error in errors:
        print(error, file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

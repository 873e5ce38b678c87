#!/usr/bin/env python3
"""Breaks the shipped kernels in one place at a time and requires a test under the emulator to fail.

    mutate.py generate FOLDER           writes the kernels with all mutations, each behind a switch
    mutate.py run BUILD [--only TEXT]   turns on one after another; exits 1 when one goes unnoticed or
                                        mutations.md does not list exactly what is in the kernels
    mutate.py write BUILD               looks for a test that notices, mutation by mutation, and writes
                                        mutations.md: for each the test that `run` runs

BUILD is a build folder with the targets imf_cuda_mutants, test_ops and count_kernels. The mutations are in
mutations.py: every __syncthreads(), __syncwarp() and cp_async_wait<N>() removed, and planted faults.
"""
import concurrent.futures
import itertools
import os
import re
import subprocess
import sys

from mutations import find_mutations, key, sources, switched

HERE = os.path.dirname(os.path.abspath(__file__))
LIST = os.path.join(HERE, "mutations.md")
TIMEOUT = 250

# Where `write` looks for a case that notices: the operations of a kernel file, with their environment.
# Without cuBLASLt its stand-in in linear.cu must do.
OPERATIONS = {
    "attention.cu": ["attention", "attention_single"],
    "conv.cu": ["conv2d"],
    "conv3x3.cu": ["conv2d", "conv2d+group_norm"],
    "conv_statistics.cuh": ["conv2d+group_norm"],
    "embed.cu": ["scalar_embed", "patchify", "assemble", "euler"],
    "group_norm.cu": ["group_norm", "conv2d+group_norm"],
    "linear.cu": ["linear"],
    "picture.cu": ["pool2d", "concat", "image_tokens", "to_rgb8"],
    "rms_norm.cu": ["rms_norm"],
    "swiglu.cu": ["swiglu"],
}
COUNTED = {"attention.cu": "attention, 276 tokens, 2 heads", "conv3x3.cu": "conv 3x3, 32 x 32, 4 to 128"}


def command(build, test):
    """("test_ops", "bf16", "attention", "3") or ("count_kernels", "a shape") as a command line."""
    if test[0] == "count_kernels":
        return [os.path.join(build, "tests/cuda_device/count_kernels"), "-", *test[1:]]
    return [os.path.join(build, "tests/ops/test_ops"), "cuda", *test[1:]]


def run_test(build, test, number):
    """How the test fails with that mutation turned on (0: none), or None."""
    env = dict(os.environ, IMFD_CUDA_DRIVER=os.path.join(build, "tests/cuda_emu/libcuda_emu.so"),
               IMFD_CUDA_MODULE=os.path.join(build, "tests/cuda_emu/libimf_cuda_mutants.so"),
               IMF_EMU_MUTANT=str(number), IMF_EMU_FATAL="1", IMF_EMU_CHECK="full", OMP_WAIT_POLICY="passive")
    if test[:1] == ("test_ops",) and test[2] == "linear":
        env["IMF_EMU_CUBLASLT"] = "none"
    try:
        r = subprocess.run(command(build, test), env=env, capture_output=True, text=True, timeout=TIMEOUT,
                           check=False)
    except subprocess.TimeoutExpired:
        return "hangs"
    for line in (r.stderr + r.stdout).splitlines():
        if line.startswith("cuda_emu: "):
            return line[len("cuda_emu: "):]
    if not r.returncode:
        return None
    if any(line.startswith("FAIL ") and not line.endswith("bank conflicts 0") for line in r.stdout.splitlines()):
        return "bank conflicts"
    if any(line.startswith("FAIL") for line in r.stdout.splitlines()):
        return "wrong result"
    sys.exit("%s: exit %d\n%s%s" % (" ".join(test), r.returncode, r.stdout, r.stderr))


def listed():
    """{mutation: test} from mutations.md."""
    rows = {}
    for line in open(LIST):
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if len(cells) == 7 and cells[0].endswith((".cu", ".cuh")):
            words = cells[5].strip("`").split(" ", 1)
            rest = words[1:] if words[0] == "count_kernels" else words[1].split() if len(words) > 1 else []
            rows["%s: %s: %s #%s" % (cells[0], cells[2], cells[3], cells[4])] = (words[0], *rest)
    return rows


def run(build, only):
    mutations, tests, bad = find_mutations(), listed(), 0
    for k in sorted(set(tests) - {key(m) for m in mutations}):
        print("mutations.md: no longer in the kernels: " + k)
        bad += 1
    for m in mutations:
        if key(m) not in tests or len(tests[key(m)]) < 2:
            print("mutations.md: no test for " + key(m))
            bad += 1
    todo = [m for m in mutations if only in key(m) and len(tests.get(key(m), ())) > 1]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        # With no mutation turned on the tests pass, or their failing would prove nothing.
        clean = {t: pool.submit(run_test, build, t, 0) for t in sorted({tests[key(m)] for m in todo})}
        broken = [(m, pool.submit(run_test, build, tests[key(m)], m["number"])) for m in todo]
        for t, seen in clean.items():
            if seen.result():
                print("without any mutation, %s: %s" % (" ".join(t), seen.result()))
                bad += 1
        for m, seen in broken:
            print("%-9s %s: %s" % ("noticed" if seen.result() else "SURVIVES", key(m), seen.result()), flush=True)
            bad += not seen.result()
    print("%d mutations, %d problems" % (len(todo), bad))
    return 1 if bad or not todo else 0


def candidates(build, m):
    """Tests that may notice, likely ones first."""
    precisions = ["fp32", "bf16"] if "f32" in m["function"] else ["bf16", "fp32"]
    if "bank conflicts" in m["change"]:
        yield ("count_kernels", COUNTED[m["file"]])
    for operation in OPERATIONS[m["file"]]:
        plain = subprocess.run([os.path.join(build, "tests/ops/test_ops"), "plain", "fp32", operation],
                               capture_output=True, text=True, check=True)
        cases = int(re.search(r"of (\d+) cases", plain.stdout).group(1))
        for precision in precisions:
            for case in range(1, cases + 1):
                yield ("test_ops", precision, operation, str(case))


def find_test(build, m, before):
    likely = [before] if before and len(before) > 1 else []
    for test in itertools.chain(likely, candidates(build, m)):
        seen = run_test(build, test, m["number"])
        if seen:
            return test, seen
    return None, None


def write(build):
    before, survivors, rows = listed(), 0, []
    for m in find_mutations():
        test, seen = find_test(build, m, before.get(key(m)))
        print("%s: %s: %s" % (key(m), " ".join(test or ()), seen or "SURVIVES"), flush=True)
        survivors += not test
        cells = [m["file"], str(m["line"]), m["function"], m["change"], str(m["nth"]),
                 "`%s`" % " ".join(test) if test else "**none**", (seen or "").replace("|", "/")]
        rows.append("| " + " | ".join(cells) + " |\n")
    removed = sum("| no `" in r for r in rows)
    with open(LIST, "w") as f:
        f.write("# The kernels broken in one place at a time\n\n"
                "Written by `tests/cuda_emu/mutate.py write BUILD`; the test `cuda_emu_mutations` goes through it\n"
                "again. Each row is one change to the shipped kernels, the test that is run with it (an operation's\n"
                "n-th case, or the counters of a shape) and what that test saw.\n\n")
        f.write("%d barriers and waits removed, %d faults planted; %d survive.\n\n"
                % (removed, len(rows) - removed, survivors))
        f.write("| file | line | function | change | # | test | seen as |\n|---|---|---|---|---|---|---|\n")
        f.writelines(rows)
    return 1 if survivors else 0


def generate(folder):
    os.makedirs(folder, exist_ok=True)
    mutations = find_mutations()
    for name in sources():
        path, text = os.path.join(folder, name), switched(name, mutations)
        if not os.path.exists(path) or open(path).read() != text:
            open(path, "w").write(text)
    return 0


def main():
    args = sys.argv[1:]
    if len(args) == 2 and args[0] == "generate":
        return generate(args[1])
    if len(args) == 2 and args[0] == "write":
        return write(os.path.abspath(args[1]))
    if len(args) in (2, 4) and args[0] == "run" and args[2:3] in ([], ["--only"]):
        return run(os.path.abspath(args[1]), args[3] if len(args) == 4 else "")
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

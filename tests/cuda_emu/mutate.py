#!/usr/bin/env python3
"""Removes every barrier of the kernels, one at a time, and requires the operation tests to fail.

    mutate.py BUILD [--only SUBSTRING]   runs all mutations, writes mutations.md, exits 1 on a survivor
    mutate.py --check                    only: does mutations.md list the barriers that are in the kernels?

BUILD is a build folder made by Ninja with the targets imf_cuda_checked and test_ops built. Removed are
__syncthreads(), __syncwarp() and cp_async_wait<N>(): the three whose absence may go unnoticed on a GPU.
Each mutant is compiled alone, linked with the other objects of the checked module and run on the
operations of its file until one fails.
"""
import argparse
import json
import os
import re
import shlex
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
KERNELS = os.path.join(ROOT, "kernels")
LIST = os.path.join(HERE, "mutations.md")
STATEMENT = re.compile(r"(__syncthreads|__syncwarp|cp_async_wait<[^;]*>)\([^;]*\);")
NAME = re.compile(r"(\w+)\(")
SKIPPED = {"device_intrinsics.cuh"}
TIMEOUT = 600

# What to run first for a kernel file: (operation, environment). Everything follows when these see nothing.
# Without cuBLASLt its stand-in in linear.cu must do.
FIRST = {
    "attention.cu": [("attention", {}), ("attention_single", {})],
    "conv.cu": [("conv2d", {})],
    "conv3x3.cu": [("conv2d", {})],
    "group_norm.cu": [("group_norm", {})],
    "linear.cu": [("linear", {"IMF_EMU_CUBLASLT": "none"})],
    "rms_norm.cu": [("rms_norm", {})],
}


def without_comments(text):
    """Comments blanked out, lines and columns kept."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())
    return re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.S)


def find_mutations():
    out = []
    for name in sorted(os.listdir(KERNELS)):
        if not name.endswith((".cu", ".cuh")) or name in SKIPPED:
            continue
        text = without_comments(open(os.path.join(KERNELS, name)).read())
        function, count, offset, waiting = "?", {}, 0, False
        for number, line in enumerate(text.split("\n"), 1):
            if waiting or line[:1].strip() and not line.startswith(("#", "static_assert")):
                names = [n for n in NAME.findall(line) if n not in ("sizeof", "__launch_bounds__", "__align__")]
                function = names[0] if names else function
                waiting = "__launch_bounds__" in line and not names  # the name is on the next line
            if not line.lstrip().startswith("#"):
                for m in STATEMENT.finditer(line):
                    statement = m.group().rstrip(";")
                    nth = count[function, statement] = count.get((function, statement), 0) + 1
                    out.append({"file": name, "line": number, "function": function, "statement": statement,
                                "nth": nth, "begin": offset + m.start(), "end": offset + m.end()})
            offset += len(line) + 1
    return out


def key(m):
    return "%s: %s: %s #%d" % (m["file"], m["function"], m["statement"], m["nth"])


def listed():
    rows = []
    for line in open(LIST):
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if len(cells) == 6 and cells[0].endswith((".cu", ".cuh")):
            rows.append("%s: %s: %s #%s" % (cells[0], cells[2], cells[3].strip("`"), cells[4]))
    return rows


def check():
    want, have = [key(m) for m in find_mutations()], listed()
    for k in want:
        if k not in have:
            print("not in mutations.md: " + k)
    for k in have:
        if k not in want:
            print("no longer in the kernels: " + k)
    return 0 if sorted(want) == sorted(have) else 1


class Module:
    """How the checked module is compiled and linked, from the build folder."""

    def __init__(self, build):
        self.build = os.path.abspath(build)
        self.work = os.path.join(self.build, "mutate")
        os.makedirs(self.work, exist_ok=True)
        self.commands = {}
        for c in json.load(open(os.path.join(build, "compile_commands.json"))):
            if "imf_cuda_checked.dir" in c["command"] and os.path.dirname(c["file"]) == KERNELS:
                self.commands[os.path.basename(c["file"])] = c
        target = "tests/cuda_emu/libimf_cuda_checked.so"
        ninja = subprocess.run(["ninja", "-C", self.build, "-t", "commands", target], check=True,
                               capture_output=True, text=True).stdout
        line = [l for l in ninja.splitlines() if "-o " + target in l][-1]
        line = line.split("&&")[1] if "&&" in line else line
        self.link = shlex.split(line)
        self.library = os.path.join(self.work, "libimf_cuda_mutant.so")

    def compile(self, name, source):
        c = self.commands[name]
        args = shlex.split(c["command"])
        original = args[args.index("-o") + 1]
        output = os.path.join(self.work, name + ".o")
        clean, skip = [], False
        for a in args:
            if skip:
                skip = False
                continue
            if a in ("-MD",):
                continue
            if a in ("-MF", "-MT"):
                skip = True
                continue
            clean.append(a)
        clean[clean.index("-o") + 1] = output
        clean[clean.index("-c") + 1] = source
        clean.insert(1, "-I" + os.path.join(self.work, "kernels"))
        subprocess.run(clean, cwd=c["directory"], check=True)
        return original, output

    def make(self, mutation):
        folder = os.path.join(self.work, "kernels")
        os.makedirs(folder, exist_ok=True)
        for f in os.listdir(folder):
            os.unlink(os.path.join(folder, f))
        text = open(os.path.join(KERNELS, mutation["file"])).read()
        text = text[:mutation["begin"]] + ";" + text[mutation["end"]:]
        path = os.path.join(folder, mutation["file"])
        open(path, "w").write(text)
        names = [mutation["file"]]
        if path.endswith(".cuh"):
            # A copy of every kernel beside it, so that #include "..." finds the mutant.
            names = sorted(self.commands)
            for f in os.listdir(KERNELS):
                if f != mutation["file"] and f.endswith((".cu", ".cuh", ".h")):
                    os.symlink(os.path.join(KERNELS, f), os.path.join(folder, f))
        link = list(self.link)
        for n in names:
            original, output = self.compile(n, os.path.join(folder, n))
            link[link.index(original)] = output
        link[link.index("-o") + 1] = self.library
        subprocess.run(link, cwd=self.build, check=True)


def run(module, mutation):
    """What noticed the missing statement, or None."""
    env = dict(os.environ, IMFD_CUDA_DRIVER=os.path.join(module.build, "tests/cuda_emu/libcuda_emu.so"),
               IMFD_CUDA_MODULE=module.library, IMF_EMU_FATAL="1", IMF_EMU_CHECK="full")
    program = os.path.join(module.build, "tests/ops/test_ops")
    for op, extra in FIRST.get(mutation["file"], []) + [("", {})]:
        where = (op or "all") + "".join(" %s=%s" % e for e in extra.items())
        for precision in ("bf16", "fp32"):
            args = [program, "cuda", precision] + ([op] if op else [])
            try:
                r = subprocess.run(args, env={**env, **extra}, capture_output=True, text=True, timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                return "%s %s: hangs" % (where, precision)
            if r.returncode:
                for line in (r.stderr + r.stdout).splitlines():
                    if line.startswith("cuda_emu: "):
                        return "%s %s: %s" % (where, precision, line[len("cuda_emu: "):])
                for line in r.stdout.splitlines():
                    if line.startswith("FAILED"):
                        return "%s %s: wrong result" % (where, precision)
                return "%s %s: exit %d" % (where, precision, r.returncode)
    return None


def baseline(module):
    """The unmutated module must pass, or failures would prove nothing."""
    env = dict(os.environ, IMFD_CUDA_DRIVER=os.path.join(module.build, "tests/cuda_emu/libcuda_emu.so"),
               IMFD_CUDA_MODULE=os.path.join(module.build, "tests/cuda_emu/libimf_cuda_checked.so"),
               IMF_EMU_FATAL="1")
    for precision in ("bf16", "fp32"):
        r = subprocess.run([os.path.join(module.build, "tests/ops/test_ops"), "cuda", precision], env=env,
                           capture_output=True, text=True)
        if r.returncode:
            print(r.stdout + r.stderr)
            sys.exit("test_ops cuda %s fails without any mutation" % precision)


def write_list(rows):
    with open(LIST, "w") as f:
        f.write("# Barriers removed one by one\n\n")
        f.write("Written by `tests/cuda_emu/mutate.py BUILD`: each row is one statement of the shipped kernels,\n"
                "deleted on its own, and the first thing that failed in `test_ops cuda` under the emulator.\n"
                "`mutate.py --check` (a test) compares the list with the kernels.\n\n")
        killed = sum(1 for r in rows if r["by"])
        f.write("%d statements, %d noticed, %d survive.\n\n" % (len(rows), killed, len(rows) - killed))
        f.write("| file | line | function | removed | # | noticed by |\n|---|---|---|---|---|---|\n")
        for r in rows:
            f.write("| %s | %d | %s | `%s` | %d | %s |\n" % (r["file"], r["line"], r["function"], r["statement"],
                                                            r["nth"], (r["by"] or "**survives**").replace("|", "/")))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="", help="mutations whose description contains this; the list is not written")
    parser.add_argument("--no-baseline", action="store_true", help="trust that the unmutated module passes")
    args = parser.parse_args()
    if args.check:
        return check()
    if not args.build:
        parser.error("which build folder?")
    module = Module(args.build)
    if not args.no_baseline:
        baseline(module)
    rows = []
    for m in find_mutations():
        if args.only not in key(m):
            continue
        module.make(m)
        m["by"] = run(module, m)
        rows.append(m)
        print("%s:%d %s: %s" % (m["file"], m["line"], m["statement"], m["by"] or "SURVIVES"), flush=True)
    if not args.only:
        write_list(rows)
    return 0 if rows and all(r["by"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

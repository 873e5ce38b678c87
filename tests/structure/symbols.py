#!/usr/bin/env python3
"""Looks at the objects of a build: every function that others can link against is one that another file of the product
calls, and begins with a prefix that docs/architecture.md gives its folder.

    symbols.py BUILD
"""
import collections
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
# Called by nothing in the product, and why they can be linked against nevertheless.
JUSTIFIED = {
    "main": "the program",
    "imfd_mpi_open": "dlsym in evaluate/ranks.c",
    "imf__cuda_(device_create|runtime_version)": "dlsym in core/cuda_loader.c",
    "imf__npy_load": "the golden arrays, the fuzzer",
    "imf__npy_free": "the golden arrays, the fuzzer",
    "imf__gemm_tasks": "the order of tasks on any number of threads",
    "imf__processor_quota": "cgroup trees that a test makes",
    "imf__synth_fill": "values held against the published rule",
    "eval_measured_of": "a row of the table without its text",
    "eval_published": "a row of the table without its text",
    "http_authority_valid": "the fuzzer of heads",
    "keys_parse": "the fuzzer of settings",
    "settings_parse_text": "the fuzzer of settings",
    "json_null": "json_write is whole",
    "backend_fake_.*": "what tests do with the fake engine",
    "TRITONBACKEND_.*": "Triton",
}
PUBLIC = re.compile(r"\b(imf_\w+)\(")


def symbols(objects):
    """{symbol: object that defines it}, {symbol: objects that use it}"""
    defined, used = {}, collections.defaultdict(set)
    for path in objects:
        listing = subprocess.run(["nm", "-P", "-g", path], capture_output=True, text=True).stdout
        for line in listing.splitlines():
            name, kind = line.split()[:2]
            if kind in "TDBR":
                defined[name] = path
            elif kind == "U":
                used[name].add(path)
    return defined, used


def folder_of(path):
    """server/api, of BUILD/server/api/CMakeFiles/imfd_api.dir/keys.c.o"""
    return re.search(r"((?:server|engine)(?:/\w+)*)/CMakeFiles/", str(path))[1]


def prefixes():
    block = re.search(r"^```prefixes\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)[1]
    return {line.split()[0]: line.split()[1:] for line in block.splitlines()}


def main():
    build = Path(sys.argv[1])
    objects = [p for top in ("server", "engine") for p in (build / top).rglob("*.o")
               if (ROOT / p.relative_to(build).parents[2] / re.sub(r"\.o$", "", p.name)).is_file()]
    defined, used = symbols(objects)
    public = set(PUBLIC.findall((ROOT / "engine/imf.h").read_text() + (ROOT / "engine/imf_metrics.h").read_text()))
    allowed, wrong, needless = prefixes(), [], set(JUSTIFIED)
    for name, path in sorted(defined.items()):
        if name.startswith("__"):  # the sanitizers'
            continue
        folder = folder_of(path)
        if not used[name] - {path} and name not in public:
            excuse = [pattern for pattern in JUSTIFIED if re.fullmatch(pattern, name)]
            needless -= set(excuse)
            if not excuse:
                wrong.append(f"{name} of {folder}: no other file of the product uses it; make it static, or say why not")
        if not any(name.startswith(p) for p in allowed.get(folder, ())) and not name.startswith("embedded_"):
            wrong.append(f"{name}: {DOCUMENT.name} has no such prefix for {folder}")
    # Built where Triton's header, Open MPI and nvcc are.
    needless -= {"TRITONBACKEND_.*", "imfd_mpi_open", "imf__cuda_(device_create|runtime_version)"}
    wrong += [f"{name} needs no justification any more" for name in sorted(needless)]
    for folder in sorted(set(allowed) - {folder_of(p) for p in objects} - {"server/triton", "engine/cuda"}):
        wrong.append(f"{DOCUMENT.name} has prefixes for {folder}, which has no objects")
    print("\n".join(wrong))
    print(f"{len(objects)} objects, {len(defined)} symbols, {len(wrong)} wrong")
    return 1 if wrong or len(defined) < 500 else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Draws which folder includes which, and holds the drawing in docs/architecture.md against the code.

    folders.py           checks; exit status 1 and a sentence for each thing that is wrong
    folders.py --draw    prints the drawing as the code has it, to be put into docs/architecture.md

What is wrong: a circle of folders; an arrow the document does not have, or one that nobody needs any more; an
`internal.h` included from another folder; a source file of server/ or engine/ that lies in no folder; a file that
serves pictures and includes more of the engine than imf.h.
The headers of engine/ itself (imf.h, imf_metrics.h, device.h) are contracts: anybody may include them, and
they include nothing but each other.
"""
import collections
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCUMENT = "docs/architecture.md"
SOURCE = re.compile(r"\.(c|h|cu|cuh)$")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
LOOSE = {"server/main.c", "engine/imf.h", "engine/imf_metrics.h", "engine/device.h"}
# What serves pictures gets by with imf.h, the engine's common tools and the header of an .npy file.
SERVING = re.compile(r"server/(http|api|scheduler|settings|triton)/|server/cli/(serve|model_dir|demo|notify)\.")
FOR_SERVING = re.compile(r"engine/(imf\.h|common/|files/npy\.h)")
ELSEWHERE = {"imf_emu_device.h"}  # the emulator's, in the place of CUDA's own headers


def sources():
    """Every source file of the product, as git or, in a tree without git, the file system has it."""
    found = []
    for top in ("server", "engine", "kernels"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            found += [os.path.relpath(os.path.join(folder, n), ROOT) for n in names if SOURCE.search(n)]
    return sorted(found)


def included(path, every):
    """The product's files that a file includes."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        text = f.read()
    for name in INCLUDE.findall(text):
        for root in (os.path.dirname(path), "server", "engine", "kernels"):
            target = os.path.normpath(os.path.join(root, name))
            if target in every:
                yield target
                break
        else:
            if name not in ELSEWHERE:
                raise SystemExit(f"{path}: includes {name}, which is nowhere")


def arrows(files):
    """{folder: {folder it includes from: [(file, included file)]}}, without the contracts."""
    every, graph, wrong = set(files), collections.defaultdict(lambda: collections.defaultdict(list)), []
    for path in files:
        folder = os.path.dirname(path)
        graph[folder]  # folders without arrows are drawn too
        if folder in ("server", "engine") and path not in LOOSE:
            wrong.append(f"{path} lies in no folder")
        for target in included(path, every):
            to = os.path.dirname(target)
            if SERVING.match(path) and target.startswith("engine/") and not FOR_SERVING.match(target):
                wrong.append(f"{path}, which serves, includes {target}, which is for the engine's tools")
            if path in LOOSE and folder == "engine" and to != "engine":
                wrong.append(f"{path}, a contract, includes {target}")
            if to == folder or to == "engine":
                continue
            if os.path.basename(target) == "internal.h":
                wrong.append(f"{path} includes {target}, which is private to its folder")
            graph[folder][to].append((path, target))
    graph.pop("engine", None)
    return graph, wrong


def circle(graph):
    """A list of folders that include each other in a circle, or None."""
    done, way = set(), []

    def visit(folder):
        if folder in way:
            return way[way.index(folder):] + [folder]
        if folder in done:
            return None
        way.append(folder)
        for to in sorted(graph.get(folder, ())):
            found = visit(to)
            if found:
                return found
        way.pop()
        done.add(folder)
        return None

    for folder in sorted(graph):
        found = visit(folder)
        if found:
            return found
    return None


def levels(graph):
    """Folders from the top down: each one stands above all that it includes from."""
    depth = {}

    def of(folder):
        if folder not in depth:
            depth[folder] = 1 + max((of(to) for to in graph.get(folder, ())), default=-1)
        return depth[folder]

    for folder in list(graph):
        of(folder)
    return sorted(graph, key=lambda f: (-depth[f], f))


def draw(graph):
    rows = levels(graph)
    width = max(map(len, rows))
    return "".join(f"{f:<{width}}  ->  {', '.join(sorted(graph[f]))}".rstrip(" ->") + "\n" for f in rows)


def drawn():
    with open(os.path.join(ROOT, DOCUMENT), encoding="utf-8") as f:
        block = re.search(r"^```folders\n(.*?)^```", f.read(), re.M | re.S)
    if not block:
        raise SystemExit(f"{DOCUMENT} has no block ```folders")
    graph = {}
    for line in block.group(1).splitlines():
        folder, _, to = line.partition("->")
        graph[folder.strip()] = {name.strip() for name in to.split(",") if name.strip()}
    return graph


def main():
    graph, wrong = arrows(sources())
    if "--draw" in sys.argv[1:]:
        sys.stdout.write(draw(graph))
        return 0
    round_trip = circle(graph)
    if round_trip:
        wrong.append("a circle: " + " -> ".join(round_trip))
        for a, b in zip(round_trip, round_trip[1:]):
            wrong += [f"    {path} includes {target}" for path, target in graph[a][b]]
    document = drawn()
    for folder in sorted(set(graph) | set(document)):
        has, may = set(graph.get(folder, ())), document.get(folder, set())
        if folder not in document:
            wrong.append(f"{DOCUMENT} does not have the folder {folder}")
        elif folder not in graph:
            wrong.append(f"{DOCUMENT} has {folder}, which is not there")
        wrong += [f"{DOCUMENT} has no arrow {folder} -> {to}: {graph[folder][to][0][0]} includes "
                  f"{graph[folder][to][0][1]}" for to in sorted(has - may)]
        wrong += [f"{DOCUMENT} has an arrow {folder} -> {to} that nothing needs" for to in sorted(may - has)]
    for sentence in wrong:
        print(sentence)
    arrow_count = sum(map(len, graph.values()))
    print(f"{len(graph)} folders, {arrow_count} arrows, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

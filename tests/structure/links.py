#!/usr/bin/env python3
"""What documents and comments point at is there: links between pages, paths of files, names of tests. Lines of a page
wrap at 120 columns, tables and code apart."""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOPS = ("server", "engine", "kernels", "web", "conf", "docs", "tests", "models", "tools")
# server/http/head.c; a folder, conf/nginx; also http/head.c, written from one of the two roots of includes.
PATH = re.compile(r"(?<![\w./@{$:-])((?:%s)/[\w./{},*-]*[\w/*}])" % "|".join(TOPS))
SHORT = re.compile(r"(?<![\w./@{$:-])([a-z_]+/[\w/]+\.(?:c|h|cu|cuh|py|sh|cmake|md|js))\b")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*|^ *# [^\n]*", re.S | re.M)
ELSEWHERE = re.compile(r"^(build|models/id$|cjson/)")  # what a build makes, a route, the system's
WORDS = re.compile(r"\bamendment|\basked for: |The aim: |\bTODO\b|\bFIXME\b")


def listed():
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return git.stdout.split("\n") if git.returncode == 0 else [
        str(p.relative_to(ROOT)) for top in (*TOPS, ".") for p in (ROOT / top).glob("**/*" if top != "." else "*")]


def alternatives(path):
    """a/{b,c}.d is two paths."""
    inner = re.search(r"\{([^{}]*)\}", path)
    if not inner:
        return [path]
    return [p for choice in inner[1].split(",") for p in alternatives(path[:inner.start()] + choice + path[inner.end():])]


def exists(path, beside):
    for root in (ROOT, ROOT / "server", ROOT / "engine", ROOT / "tests", beside):
        if "*" in path or "_." in path:
            if next(root.glob(path), None):
                return True
        elif (root / path).exists() or list(root.glob(path + ".*")):
            return True
    return False


def pointers(text, beside):
    for pattern in (PATH, SHORT):
        for match in pattern.finditer(text):
            for path in alternatives(match[1].rstrip("./")):
                if not exists(path, beside) and not ELSEWHERE.match(path):
                    yield match.start(), f"{path} is not there"


def faults(name):
    path = ROOT / name
    text = path.read_text(errors="replace")
    if name.endswith(".md"):
        for match in LINK.finditer(text):
            if not (path.parent / match[1]).exists():
                yield match.start(), f"the link to {match[1]} leads nowhere"
        yield from pointers(text, path.parent)
        for match in WORDS.finditer(text):
            yield match.start(), f"'{match[0].strip()}' speaks to somebody else than the reader"
        fenced, at = False, 0
        for line in text.split("\n"):
            fenced ^= line.startswith("```")
            if len(line) > 120 and not fenced and not line.startswith(("    ", "|", "![")) and "http" not in line:
                yield at, f"{len(line)} columns"
            at += len(line) + 1
    else:
        for comment in COMMENT.finditer(text):
            for at, sentence in pointers(comment[0], path.parent):
                yield comment.start() + at, sentence


def main():
    wrong = 0
    names = [n for n in listed() if re.search(r"\.(md|c|h|cu|cuh|cpp|py|sh|cmake)$|CMakeLists\.txt$", n)
             and (ROOT / n).is_file() and not n.startswith("tests/structure/")]
    for name in names:
        text = (ROOT / name).read_text(errors="replace")
        for at, sentence in faults(name):
            wrong += 1
            print(f"{name}:{text.count(chr(10), 0, at) + 1}: {sentence}")
    print(f"{len(names)} files, {wrong} wrong")
    return 1 if wrong or len(names) < 200 else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Holds the sources to the dialect that docs/architecture.md describes: one way to test a pointer, one to include cJSON,
and the insides of a request stay in server/http."""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RULES = [
    (re.compile(r"== NULL\b"), "a pointer is tested as `!p`"),
    (re.compile(r"!= NULL (?:&&|\|\||\?)|\b(?:if|while) \([^()]* != NULL\)|(?:&&|\|\|) [\w.>*\[\]-]+ != NULL"),
     "in a condition a pointer is tested as `p`"),
    (re.compile(r'#include (?!<cjson/cJSON\.h>).*cJSON'), "cJSON is included as <cjson/cJSON.h>"),
]
# What http/server.h calls its own in struct http_request.
HTTP_OWN = re.compile(r"(?:->|\.)(?:has_reply|head_sent|no_body|close_after|discard|streaming|stream_ended|stream_failed|"
                      r"chunked|n_reply_headers|reply_headers|text_used)\b")
COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.S)


def blank(match):
    """Comments and strings say what they like; includes keep theirs."""
    return re.sub(r"[^\n]", " ", match.group()) if not match.group().startswith('"') else match.group()


def faults(path, text):
    for number, line in enumerate(COMMENT.sub(blank, text).split("\n"), 1):
        for rule, sentence in RULES:
            if rule.search(line):
                yield f"{path}:{number}: {sentence}: {line.strip()}"
        if path.startswith("server/") and not path.startswith("server/http/") and HTTP_OWN.search(line):
            yield f"{path}:{number}: the insides of a request are http/'s: {line.strip()}"


def main():
    assert list(faults("a.c", "if (a == NULL)")) and list(faults("a.c", "x = p != NULL ? 1 : 2;"))
    assert not list(faults("a.c", "return p != NULL; /* == NULL */"))
    listed = subprocess.run(["git", "ls-files", "server", "engine", "kernels", "tests", "tools"], cwd=ROOT, text=True,
                            capture_output=True)
    names = listed.stdout.split() if listed.returncode == 0 else [
        str(p.relative_to(ROOT)) for top in ("server", "engine", "kernels", "tests", "tools") for p in (ROOT / top).rglob("*")]
    sources = [n for n in names if re.search(r"\.(c|h|cc|cpp|cu|cuh)$", n) and (ROOT / n).is_file()]
    found = [fault for name in sources for fault in faults(name, (ROOT / name).read_text(errors="replace"))]
    print("\n".join(found))
    print(f"{len(sources)} sources, {len(found)} faults")
    return 1 if found or len(sources) < 100 else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The version stands in one place, project() of CMakeLists.txt; files that cannot read it there repeat it.

    version.py              checks that they all say the same; exit status 1 and a sentence for each that does not
    version.py --set 1.2.3  writes a version into all of them
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCE = ("CMakeLists.txt", r"(project\(imfd VERSION )(\d+\.\d+\.\d+)")
IMAGE = r"(\bimfd:)(\d+\.\d+\.\d+)"
COPIES = [
    ("Dockerfile", IMAGE),
    ("Dockerfile", r'(image\.version=")(\d+\.\d+\.\d+)'),
    ("conf/compose.yaml", IMAGE),
    ("conf/k8s/imfd.yaml", IMAGE),
    ("conf/k8s/gpu.yaml", IMAGE),
    ("conf/kserve/runtime.yaml", IMAGE),
    ("docs/operations.md", IMAGE),
    ("CHANGELOG.md", r"(\A(?:(?!\n## \[\d).)*\n## \[)(\d+\.\d+\.\d+)"),  # its newest release
]


def text(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def main():
    wanted = sys.argv[2] if sys.argv[1:2] == ["--set"] and len(sys.argv) == 3 else None
    if wanted:
        for path, pattern in [SOURCE] + COPIES:
            if path != "CHANGELOG.md":
                new = re.sub(pattern, lambda m: m.group(1) + wanted, text(path), flags=re.S)
                with open(os.path.join(ROOT, path), "w", encoding="utf-8") as f:
                    f.write(new)
    version = re.search(SOURCE[1], text(SOURCE[0])).group(2)
    wrong = 0
    for path, pattern in COPIES:
        found = re.findall(pattern, text(path), re.S)
        for _, other in found or [("", "none")]:
            if other != version:
                print(f"{path} says {other}, CMakeLists.txt {version}")
                wrong += 1
    print(f"version {version}, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

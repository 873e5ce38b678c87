"""Summary of tools/gpu-first-run.sh's folder, as Markdown: what ran, what missed, measured against estimated.

    python3 gpu-first-run.py FOLDER
"""
import json
import os
import re
import sys

ALARM = 1.25  # slower than the estimate by this: look into it


def read(folder, name):
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def read_json(folder, name):
    text = read(folder, name)
    start = text.find("{")
    try:
        return json.JSONDecoder().raw_decode(text[start:])[0] if start >= 0 else None
    except ValueError:
        return None


def steps(folder):
    print("## Steps\n\n| step | result | seconds |\n|---|---|---:|")
    for line in read(folder, "steps.txt").splitlines():
        name, status, seconds = line.split()
        words = {"0": "ok", "missing": "not there", "left-out": "no time", "124": "**took too long**"}
        print("| %s | %s | %s |" % (name, words.get(status, "**exit status %s**" % status), seconds))


def misses(folder):
    found = []
    for name in "selfcheck-fp32.txt", "selfcheck-bf16.txt", "selfcheck-sm90.txt", "selfcheck-full.txt":
        found += ["%s: %s" % (name, line.strip()) for line in read(folder, name).splitlines()
                  if re.search(r"\bMISS\b|plain kernel|depends on the batch", line)]
    found += ["sanitizer: " + line.strip() for line in read(folder, "sanitizer.txt").splitlines()
              if re.search(r"ERROR SUMMARY: [1-9]", line)]
    print("\n## Misses\n")
    print("\n".join("- " + line for line in found) if found else "None.")


def speeds(folder):
    measured, estimated = read_json(folder, "bench.txt"), read_json(folder, "estimate.txt")
    print("\n## Measured against estimated\n")
    if not measured or not estimated:
        print("Nothing to compare: bench.txt or estimate.txt holds no results.")
        return
    print("%s in %s, %s, decoder %s; estimate for %s.\n" % (measured["description"], measured["precision"],
                                                            measured["model"], measured["decoder"], estimated["gpu"]))
    print("A plain product: %.0f TFLOP/s.\n" % (measured["matmul_gflops"] / 1e3))
    print("| batch | stage | measured ms | estimated ms | measured / estimated | at peak ms |\n"
          "|---:|---|---:|---:|---:|---:|")
    slow = []
    for part in estimated["parts"]:
        for row in measured["rows"]:
            if (row["batch"], row["stage"]) != (part["batch"], part["stage"]):
                continue
            ms, estimate = 1e3 * row["seconds_per_picture"] * row["batch"], 1e3 * part["estimate_seconds"]
            mark = "**" if ms > ALARM * estimate else ""
            if mark:
                slow.append("%s at batch %d" % (row["stage"], row["batch"]))
            print("| %d | %s | %.2f | %.2f | %s%.2f%s | %.2f |" % (row["batch"], row["stage"], ms, estimate, mark,
                                                                 ms / estimate, mark, 1e3 * part["seconds"]))
    print("\nSlower than %.2f x the estimate: %s." % (ALARM, ", ".join(slow) if slow else "nothing"))
    print("\nloaded in %.1f s; weights %.0f MB, activations %.0f MB" % (
        measured["load_seconds"], measured["weights_bytes"] / 1e6, measured["arena_bytes"] / 1e6))


def switched(folder):
    """The decoder with IMFD_CONV_SM90=1 against without."""
    off, on = read_json(folder, "bench.txt"), read_json(folder, "bench-sm90.txt")
    if not off or not on:
        return
    print("\n## IMFD_CONV_SM90\n\n| batch | stage | off ms | on ms | on / off |\n|---:|---|---:|---:|---:|")
    for row, other in zip(off["rows"], on["rows"]):
        ms, faster = (1e3 * r["seconds_per_picture"] * r["batch"] for r in (row, other))
        print("| %d | %s | %.2f | %.2f | %.2f |" % (row["batch"], row["stage"], ms, faster, faster / ms))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print("# First run\n\n```\n%s```\n" % "".join(read(sys.argv[1], "versions.txt").splitlines(True)[:24]))
    steps(sys.argv[1])
    misses(sys.argv[1])
    speeds(sys.argv[1])
    switched(sys.argv[1])
    yardsticks = read(sys.argv[1], "yardsticks.txt")
    if yardsticks:
        print("\n## The same work in PyTorch\n\n```\n%s```" % yardsticks)


if __name__ == "__main__":
    main()

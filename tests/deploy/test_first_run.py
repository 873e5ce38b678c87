"""tools/gpu-first-run.sh with a GPU that only says its compute capability, and a program that only says how it was
called: the convolution of sm_90a is tried where the GPU has its instructions, and the summary compares."""
import json
import os
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BENCH = {"description": "a GPU", "precision": "bf16", "model": "M", "decoder": "D", "matmul_gflops": 1, "load_seconds": 1,
         "weights_bytes": 1, "arena_bytes": 1}
PROGRAM = """#!/bin/sh
[ "$1 $2" != "bench --roofline" ] || { echo '{"gpu": "H100", "parts": []}'; exit; }
[ "$1" != bench ] || { echo '%s'; exit; }
echo "$IMFD_CONV_SM90 $*"
"""
SMI = """#!/bin/sh
case "$*" in *compute_cap*) echo %s ;; esac
"""


class FirstRun(unittest.TestCase):
    def summary(self, folder, capability):
        row = {"batch": 8, "stage": "decode"}
        slow, fast = (json.dumps({**BENCH, "rows": [{**row, "seconds_per_picture": s}]}) for s in (0.25, 0.125))
        program = PROGRAM.replace("echo '%s'", "[ -z \"$IMFD_CONV_SM90\" ] && echo '%s' || echo '%s'" % (slow, fast))
        for name, text in (("imfd", program), ("nvidia-smi", SMI % capability)):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                f.write(text)
            os.chmod(os.path.join(folder, name), 0o755)
        out = os.path.join(folder, "out")
        subprocess.run(["sh", os.path.join(ROOT, "tools/gpu-first-run.sh"), os.path.join(folder, "imfd")], check=False,
                       env=dict(os.environ, PATH=folder + ":" + os.environ["PATH"], FIRST_RUN_OUT=out), timeout=120,
                       stdout=subprocess.DEVNULL)
        return {name: open(os.path.join(out, name), encoding="utf-8").read() for name in os.listdir(out)}

    def test_on_hopper(self):
        with tempfile.TemporaryDirectory() as folder:
            files = self.summary(folder, "9.0")
        self.assertIn("| selfcheck-sm90 | ok |", files["summary.md"])
        self.assertTrue(files["selfcheck-sm90.txt"].startswith("1 selfcheck"))
        self.assertTrue(files["selfcheck-bf16.txt"].startswith(" selfcheck"))
        self.assertIn("| 8 | decode | 2000.00 | 1000.00 | 0.50 |", files["summary.md"])

    def test_elsewhere(self):
        with tempfile.TemporaryDirectory() as folder:
            files = self.summary(folder, "12.0")
        self.assertIn("| selfcheck-sm90 | not there |", files["summary.md"])
        self.assertNotIn("bench-sm90.txt", files)


if __name__ == "__main__":
    unittest.main()

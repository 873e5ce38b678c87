"""imfd bench: the JSON others read, the table, refusals."""
import json
import os
import re
import unittest
import unittest.mock

from cli_case import GOLDEN, CliCase

TINY = os.path.join(GOLDEN, "mit_tiny", "mit_tiny.pth")


class Bench(CliCase):
    def test_json(self):
        out = json.loads(self.ok("bench", "--ckpt-path", TINY, "--decoder", "taesd", "--batch", "1,3", "--precision", "fp32",
                                 "--device", "cpu", "--threads", 1, "--rounds", 1, "--json"))
        for key in ("device", "precision", "threads", "peak_gflops", "matmul_gflops", "rows", "peak_rss_bytes", "weights_bytes",
                    "arena_bytes", "load_seconds"):
            self.assertIn(key, out)
        self.assertEqual((out["device"], out["precision"], out["threads"]), ("cpu", "fp32", 1))
        self.assertEqual([(r["batch"], r["stage"]) for r in out["rows"]],
                         [(b, s) for b in (1, 3) for s in ("step", "decode", "encode")])
        for row in out["rows"]:
            self.assertEqual(set(row), {"batch", "stage", "seconds_per_picture", "gflops", "of_peak", "best_of_peak", "vs_onednn"})
            self.assertGreater(row["seconds_per_picture"], 0)
            if row["stage"] == "encode":
                self.assertIsNone(row["of_peak"])
                self.assertIsNone(row["vs_onednn"])
            else:
                self.assertAlmostEqual(row["vs_onednn"], row["gflops"] / out["matmul_gflops"], places=9)
                self.assertAlmostEqual(row["of_peak"], row["gflops"] / out["peak_gflops"], places=9)
                self.assertGreater(row["of_peak"], 0)
                self.assertGreater(row["best_of_peak"], 0)
        # model.md: 35.3 GFLOP a picture through taesd
        decode = out["rows"][1]
        self.assertAlmostEqual(decode["gflops"] * decode["seconds_per_picture"], 35.3, delta=0.4)
        self.assertGreater(out["peak_rss_bytes"], out["weights_bytes"])

    def test_table(self):
        out = self.ok("bench", "--ckpt-path", TINY, "--batch", 2, "--rounds", 1, "--device", "cpu").decode()
        self.assertIn("the hardware's peak: ", out)
        self.assertRegex(out, r"\n +2  step +[0-9.]+ +[0-9]+ +[0-9.]+% +[0-9.]+% +[0-9.]+x\n")

    def test_own_bf16(self):
        """Where our own kernels multiply bfloat16, oneDNN multiplies none but the product that rates are compared with."""
        args = ["bench", "--ckpt-path", TINY, "--decoder", "taesd", "--batch", "1", "--rounds", 1, "--device", "cpu"]
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            if "avx512_bf16" not in f.read():
                self.skipTest("no bfloat16 products of our own here")
        with unittest.mock.patch.dict(os.environ, {"ONEDNN_VERBOSE": "1"}):
            lines = self.ok(*args, "--precision", "bf16").decode().splitlines()
        primitives = [line for line in lines if line.startswith("onednn_verbose,") and ",exec," in line]
        compared = [line for line in primitives if re.search(r",(1104|96)x1024:1024x3072:\1x3072,", line)]
        self.assertGreater(len(compared), 0)
        for line in primitives:
            if line not in compared and ",reorder," not in line:
                self.assertNotIn("bf16", line.split(",", 6)[6])
                self.assertNotIn(",convolution,", line)

    def test_refused(self):
        self.refused(2, "--ckpt-path", "bench")
        self.refused(2, "--batch", "bench", "--ckpt-path", TINY, "--batch", "0")
        self.refused(2, "--batch", "bench", "--ckpt-path", TINY, "--batch", "1-17")
        self.refused(1, "No such file", "bench", "--ckpt-path", self.path("MiT_Q_2"))
        self.refused(1, "No such file", "bench", "--ckpt-path", TINY, "--decoder", self.path("nothing"))


if __name__ == "__main__":
    unittest.main()

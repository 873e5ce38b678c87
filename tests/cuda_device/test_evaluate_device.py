"""imfd evaluate on the emulator: one GPU and two give the same numbers, bit for bit, and the CPU's to five digits."""
import json
import os
import subprocess
import tempfile
import unittest

IMFD = os.environ["IMFD"]
IMAGES = 70  # two blocks: one for each GPU


class Evaluate(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.model, self.inception = self.path("pixels.safetensors"), self.path("inception.safetensors")
        self.imfd("synth", "MiT", "-o", self.model, "--config",
                  "depth=2,shared=1,hidden=64,classes=10,channels=3,input_size=8")
        self.imfd("synth", "inception", "-o", self.inception, "--config", "narrow=16")

    def path(self, name):
        return os.path.join(self.folder, name)

    def imfd(self, *arguments):
        p = subprocess.run([IMFD, *arguments], capture_output=True, text=True, env=dict(os.environ, IMF_EMU_DEVICES="2"))
        self.assertEqual(p.returncode, 0, p.stderr + p.stdout)

    def evaluate(self, workdir, device, *more):
        self.imfd("evaluate", "--ckpt-path", self.model, "--decoder", "none", "--inception", self.inception,
                  "--num-images", str(IMAGES), "--precision", "fp32", "--device", device, "--workdir", self.path(workdir),
                  "--quiet", *more)
        with open(os.path.join(self.path(workdir), "results.json"), encoding="utf-8") as f:
            return json.load(f)

    def test_devices(self):
        cpu = self.evaluate("cpu", "cpu", "--make-ref", self.path("cpu.npz"))
        # Batches of 24 and of 6 cut blocks of 64; decodings stay begun across batches and blocks.
        one = self.evaluate("one", "cuda:0", "--fid-ref", self.path("cpu.npz"), "--gen-bsz", "24")
        two = self.evaluate("two", "cuda:0,1", "--fid-ref", self.path("cpu.npz"), "--gen-bsz", "6")
        self.assertEqual((one["settings"]["device"], one["devices_per_rank"], two["devices_per_rank"]), ("cuda", 1, 2))
        self.assertEqual(two["fid"], one["fid"])
        self.assertEqual(two["inception_score"], one["inception_score"])
        self.assertLess(abs(one["fid"]), 1e-3)  # against the CPU's own pictures
        score = cpu["inception_score"]["mean"]
        self.assertLess(abs(one["inception_score"]["mean"] - score) / score, 1e-5)


if __name__ == "__main__":
    unittest.main()

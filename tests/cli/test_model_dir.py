"""imfd serve --model-dir: checkpoint and decoder in a folder, known by what they are."""
import os
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))

from cli_case import IMFD, CliCase  # noqa: E402
from imfd_server import Server, clean_environment  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DEMO = os.path.join(ROOT, "models", "demo")


class ModelDir(CliCase):
    def add(self, source, name):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        shutil.copy(os.path.join(DEMO, source), self.path(name))

    def start(self, *flags):
        return subprocess.run([IMFD, "serve", "--model-dir", self.folder, "--listen", "127.0.0.1:0", *flags],
                              capture_output=True, text=True, timeout=60, env=clean_environment())

    def test_found(self):
        """Misleading names, folders, files that are something else, the same decoder in two formats."""
        self.add("mit_demo.safetensors", "decoder.safetensors")
        self.add("taesd_demo.safetensors", "a/b/checkpoint.safetensors")
        self.add("mit_demo.safetensors", ".cache/copy.safetensors")
        self.ok("synth", "taesd", "-o", self.path("a/b/checkpoint.pth"), "--quiet")
        self.write("optimizer.bin", "nothing of the kind")
        self.write("config.json", "{}")
        with Server("--model-dir", self.folder, "--model-name", "mine", device="cpu") as server:
            self.assertEqual([m["id"] for m in server.get("/v1/models").json()["data"]], ["mine"])
            found = server.generate({"class": 3, "seed": 42}, accept="application/x-npy").body
        with Server(device="cpu") as server:
            demo = server.generate({"class": 3, "seed": 42}, accept="application/x-npy").body
        self.assertEqual(found, demo)

    def test_refused(self):
        r = self.start()
        self.assertEqual(r.returncode, 1)
        self.assertIn("none of the 0 weights files", r.stderr)
        self.add("mit_demo.safetensors", "one.safetensors")
        self.add("mit_demo.safetensors", "x/two.safetensors")
        r = self.start()
        self.assertEqual(r.returncode, 1)
        self.assertIn("two checkpoints, one is expected", r.stderr)
        os.remove(self.path("x/two.safetensors"))
        for flags, word in ((("--model-name", "a b"), "model_name"), (("--models", "id=a,checkpoint=b"), "not beside")):
            r = self.start(*flags)
            self.assertEqual(r.returncode, 1)
            self.assertIn(word, r.stderr)
        self.folder += "/nowhere"
        r = self.start()
        self.assertEqual(r.returncode, 1)
        self.assertIn("cannot be read", r.stderr)


if __name__ == "__main__":
    unittest.main()

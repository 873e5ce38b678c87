"""Spatial features, mu_s and sigma_s, and sFID of `imfd evaluate` against InceptionV3 written once more in NumPy, up to
the layer that TensorFlow's graph calls mixed_6/conv, on a network of fewer channels. How the ADM suite does it:
evaluations/evaluator.py of openai/guided-diffusion."""
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
except ImportError as e:
    print("skipped: %s (tests/requirements.txt)" % e)
    sys.exit(77)

IMFD, SIDE, PICTURES = os.environ["IMFD"], 48, 11


def weights(path):
    with open(path, "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    return {name: np.frombuffer(data[slice(*h["data_offsets"])], "<f4").reshape(h["shape"]).astype(np.float64)
            for name, h in head.items() if name != "__metadata__"}


def resize(rgb):
    """TensorFlow 1's bilinear resize to 299 x 299, (x - 128) / 128, channels first."""
    at = np.arange(299) * (SIDE / 299)
    low = at.astype(int)
    high, part = np.minimum(low + 1, SIDE - 1), at - low
    x = rgb.astype(np.float64)
    x = x[:, low] * (1 - part)[None, :, None, None] + x[:, high] * part[None, :, None, None]
    x = x[:, :, low] * (1 - part)[None, None, :, None] + x[:, :, high] * part[None, None, :, None]
    return ((x - 128) / 128).transpose(0, 3, 1, 2)


class Network:
    def __init__(self, path):
        self.w = weights(path)

    def conv(self, x, name, stride=1, same=True):
        k = self.w[name + ".conv.weight"]
        pad = (k.shape[2] // 2, k.shape[3] // 2) if same else (0, 0)
        x = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(x, k.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
        y = np.tensordot(windows, k, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)
        bn = {p: self.w["%s.bn.%s" % (name, p)].reshape(1, -1, 1, 1)
              for p in ("weight", "bias", "running_mean", "running_var")}
        y = (y - bn["running_mean"]) / np.sqrt(bn["running_var"] + 1e-3) * bn["weight"] + bn["bias"]
        return np.maximum(y, 0)

    @staticmethod
    def maximum(x):
        return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))

    @staticmethod
    def average(x):
        """Of the neighbours that there are."""
        def total(v):
            v = np.pad(v, ((0, 0), (0, 0), (1, 1), (1, 1)))
            return np.lib.stride_tricks.sliding_window_view(v, (3, 3), axis=(2, 3)).sum(axis=(4, 5))
        return total(x) / total(np.ones_like(x))

    def chain(self, x, prefix, *names):
        for name in names:
            x = self.conv(x, prefix + name)
        return x

    def spatial(self, rgb):
        x = resize(rgb)
        x = self.conv(x, "Conv2d_1a_3x3", stride=2, same=False)
        x = self.conv(self.conv(x, "Conv2d_2a_3x3", same=False), "Conv2d_2b_3x3")
        x = self.maximum(x)
        x = self.maximum(self.conv(self.conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3", same=False))
        for b in ("Mixed_5b.", "Mixed_5c.", "Mixed_5d."):
            x = np.concatenate([self.chain(x, b, "branch1x1"), self.chain(x, b, "branch5x5_1", "branch5x5_2"),
                                self.chain(x, b, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
                                self.conv(self.average(x), b + "branch_pool")], axis=1)
        b = "Mixed_6a."
        x = np.concatenate([self.conv(x, b + "branch3x3", stride=2, same=False),
                            self.conv(self.chain(x, b, "branch3x3dbl_1", "branch3x3dbl_2"), b + "branch3x3dbl_3",
                                      stride=2, same=False), self.maximum(x)], axis=1)
        for b in ("Mixed_6b.", "Mixed_6c."):
            x = np.concatenate([self.chain(x, b, "branch1x1"),
                                self.chain(x, b, "branch7x7_1", "branch7x7_2", "branch7x7_3"),
                                self.chain(x, b, *("branch7x7dbl_%d" % i for i in range(1, 6))),
                                self.conv(self.average(x), b + "branch_pool")], axis=1)
        x = self.conv(x, "Mixed_6d.branch1x1")  # mixed_6/conv
        return x.transpose(0, 2, 3, 1)[..., :7].reshape(len(x), -1)


class Spatial(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="imfd-spatial-")
        cls.inception = cls.at("inception.safetensors")
        subprocess.run([IMFD, "synth", "inception", "--config", "narrow=16", "-o", cls.inception], check=True,
                       capture_output=True)
        rng = np.random.default_rng(5)
        cls.rgb = rng.integers(0, 256, (PICTURES, SIDE, SIDE, 3), dtype=np.uint8)
        np.savez_compressed(cls.at("samples.npz"), cls.rgb)
        cls.spatial = Network(cls.inception).spatial(cls.rgb)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def at(cls, name):
        return os.path.join(cls.folder.name, name)

    def evaluate(self, workdir, *flags, expect=0):
        done = subprocess.run([IMFD, "evaluate", "--images", self.at("samples.npz"), "--inception", self.inception,
                               "--workdir", self.at(workdir), "-q", "--device", "cpu", *flags], capture_output=True, text=True,
                              timeout=120)
        self.assertEqual(done.returncode, expect, done.stderr)
        return done

    def test_statistics(self):
        self.evaluate("make", "--make-ref", self.at("made.npz"), "--sfid")
        made = np.load(self.at("made.npz"))
        self.assertEqual(made["mu_s"].shape, (2023,))
        scale = self.spatial.std()
        np.testing.assert_allclose(made["mu_s"], self.spatial.mean(axis=0), atol=1e-4 * scale)
        np.testing.assert_allclose(made["sigma_s"], np.cov(self.spatial, rowvar=False), atol=1e-4 * scale ** 2)
        self.assertGreater(np.abs(made["sigma_s"]).max(), 0)

    def test_sfid(self):
        """Against a reference that looks as the ADM suite's do: mu of float32, sigma of float64."""
        rng = np.random.default_rng(6)
        a = np.zeros((2023, 2023))  # mostly diagonal: LAPACK is done with it in a moment
        a[:20, :20] = rng.standard_normal((20, 20))
        mu, sigma = self.spatial.mean(axis=0) + 0.1, a @ a.T + np.diag(rng.random(2023)) * 0.01
        features = {"mu": np.zeros(2048, np.float32), "sigma": np.eye(2048) * 1e-4}
        np.savez(self.at("adm.npz"), mu_s=mu.astype(np.float32), sigma_s=sigma, **features)
        done = self.evaluate("score", "--fid-ref", self.at("adm.npz"))
        with open(self.at("score/results.json")) as f:
            results = json.load(f)
        # A square root of rank 10 in 2023 dimensions: by the small side of the product.
        x = self.spatial - self.spatial.mean(axis=0)
        values = np.linalg.eigvalsh(x @ sigma @ x.T / (PICTURES - 1))
        mine = np.cov(self.spatial, rowvar=False)
        d = self.spatial.mean(axis=0) - mu
        expected = d @ d + np.trace(mine) + np.trace(sigma) - 2 * np.sqrt(np.maximum(values, 0)).sum()
        self.assertLess(abs(results["sfid"] / expected - 1), 1e-4)
        self.assertIn("sFID              %.6f" % results["sfid"], done.stdout)
        self.assertIn("fid", results)

    def test_without(self):
        np.savez(self.at("plain.npz"), mu=np.zeros(2048, np.float32), sigma=np.eye(2048) * 1e-4)
        done = self.evaluate("refused", "--fid-ref", self.at("plain.npz"), "--sfid", expect=2)
        self.assertIn("holds no mu_s and sigma_s", done.stderr)

    def test_damaged(self):
        good = {"mu": np.zeros(2048, np.float32), "sigma": np.eye(2048) * 1e-4, "mu_s": np.zeros(2023, np.float32),
                "sigma_s": np.eye(2023)}
        for name, wrong, words in (("mu_s", np.zeros(2048), "sigma_s 2023 rows"),
                                   ("sigma_s", np.eye(2023, dtype=np.float32), "sigma_s must be float64"),
                                   ("sigma_s", np.full((2023, 2023), np.nan), "NaN")):
            np.savez(self.at("bad.npz"), **dict(good, **{name: wrong}))
            done = self.evaluate("bad", "--fid-ref", self.at("bad.npz"), expect=1)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main()

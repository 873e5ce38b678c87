"""The server with the real CPU engine and models that draw pixels themselves, of two sizes: what each one
says of itself, OpenAI's sizes, and noise that is drawn beside the engine."""
import os
import struct
import subprocess
import tempfile
import unittest

from imfd_server import IMFD, Server, clean_environment, in_threads

# 3 x 160 x 160 numbers are drawn ahead, 3 x 64 x 64 are not.
MODELS = (("small", "depth=2,hidden=64,classes=10,input_size=64,bottleneck=32"),
          ("large", "depth=2,hidden=80,head=80,classes=10,input_size=160,bottleneck=32"))


def size_of(png):
    return struct.unpack(">II", png[16:24])


class Pixels(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        for name, config in MODELS:
            subprocess.run([IMFD, "synth", "--quiet", "pmfDiT", "--config", config, "-o", cls.path(name)], check=True)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def path(cls, name):
        return os.path.join(cls.folder.name, name + ".safetensors")

    def serve(self, *flags, more=""):
        models = ";".join("id=%s,checkpoint=%s" % (name, self.path(name)) for name, _ in MODELS)
        return Server("--models", models + more, "--precision", "fp32", "--max-batch", "4", *flags, device="cpu")

    def test_models(self):
        """Side by side: sizes, no decoder, pictures and arrays of each; the log says what was reserved."""
        with self.serve() as server:
            found = {m["id"]: m["imfd"] for m in server.get("/v1/models").json()["data"]}
            self.assertEqual([found[n]["size"] for n, _ in MODELS],
                             [{"width": s, "height": s} for s in (64, 160)])
            for name, side in (("small", 64), ("large", 160)):
                self.assertEqual((found[name]["decoder"], found[name]["noise_scale"]), ("none", 1))
                reply = server.get(f"/v1/images/{name}/3/5.png")
                self.assertEqual((reply.status, size_of(reply.body)), (200, (side, side)))
                self.assertEqual(server.generate({"model": name, "class": 3, "seed": 5}).status, 200)
                array = server.generate({"model": name, "class": 3, "n": 2}, Accept="application/x-npy").body
                self.assertIn(b"(2, %d, %d, 3)" % (side, side), array[:128])
                server.wait_log(rf"model {name}: pictures of {side} x {side}, \d+ MB of weights, \d+ MB reserved")

    def test_noise_ahead(self):
        """Many requests at once, seeds repeated: every picture is the one that `imfd sample` draws."""
        npy = os.path.join(self.folder.name, "all.npy")
        subprocess.run([IMFD, "sample", "--ckpt-path", self.path("large"), "--classes", "0-9", "--seeds",
                        "7,7,1,2,3,4,5,6,8,9", "--precision", "fp32", "-o", npy], check=True,
                       env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(npy, "rb") as f:
            data = f.read()
        picture = 160 * 160 * 3
        wanted = [data[len(data) - (10 - i) * picture:][:picture] for i in range(10)]
        seeds = [7, 7, 1, 2, 3, 4, 5, 6, 8, 9]
        with self.serve("--cache-bytes", "0") as server:
            def ask(i):
                reply = server.generate({"model": "large", "class": i % 10, "seed": seeds[i % 10]},
                                        Accept="application/x-npy")
                return reply.body[-picture:]
            got = in_threads([lambda i=i: ask(i) for i in range(40)])
            for i, one in enumerate(got):
                self.assertEqual(one, wanted[i % 10], i)

    def test_noise_scale(self):
        """Part of the picture, so of its ETag; from the settings."""
        with self.serve(more=";id=loud,noise_scale=2,checkpoint=" + self.path("small")) as server:
            one, two = (server.get(f"/v1/images/{name}/3/5.png") for name in ("small", "loud"))
            self.assertNotEqual(one.headers["ETag"], two.headers["ETag"])
            self.assertNotEqual(one.body, two.body)
            prints = {m["id"]: m["imfd"]["fingerprint"] for m in server.get("/v1/models").json()["data"]}
            self.assertNotEqual(prints["small"], prints["loud"])

    def ask(self, server, **fields):
        reply = server.post("/v1/images/generations", {"prompt": "class:3", **fields})
        return reply.status, reply.json().get("size"), reply

    def test_strict(self):
        with self.serve() as server:
            for fields, size in (({}, "64x64"), ({"size": "auto"}, "64x64"), ({"size": None}, "64x64"),
                                 ({"size": "64x64"}, "64x64"), ({"model": "large", "size": "160x160"}, "160x160")):
                self.assertEqual(self.ask(server, **fields)[:2], (200, size), fields)
            for fields in ({"size": "160x160"}, {"size": "1024x1024"}, {"model": "large", "size": "64x64"},
                           {"size": "64x64 "}, {"size": ""}, {"size": 64}):
                status, _, reply = self.ask(server, **fields)
                self.assertEqual((status, reply.error()["param"]), (400, "size"), fields)

    def test_nearest(self):
        with self.serve("--size-policy", "nearest") as server:
            for fields, size in (({"size": "1024x1024"}, "160x160"), ({"size": "1x1"}, "64x64"), ({}, "64x64"),
                                 ({"size": "120x120"}, "160x160"), ({"model": "small", "size": "1024x1024"}, "64x64"),
                                 ({"size": "auto"}, "64x64"), ({"model": "large", "size": "1x1"}, "160x160")):
                self.assertEqual(self.ask(server, **fields)[:2], (200, size), fields)
            for size in ("large", "0x0", "1024", "-1x5", "99999999x1"):
                self.assertEqual(self.ask(server, size=size)[0], 400, size)

    def test_ignore(self):
        with self.serve("--size-policy", "ignore") as server:
            for size in ("1024x1024", "huge", 7, None, ["x"]):
                self.assertEqual(self.ask(server, size=size)[:2], (200, "64x64"), size)


if __name__ == "__main__":
    unittest.main()

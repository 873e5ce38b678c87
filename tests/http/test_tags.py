"""Whatever decides a picture's bytes decides its ETag: servers that differ in it share none. With the real CPU
engine. OTHER_LIBRARIES names other_libraries.c, which acts as other releases of the encoders' libraries."""
import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest

from imfd_server import IMFD, Server


class Tags(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.decoder = os.path.join(self.folder.name, "taesd.safetensors")
        self.model = os.path.join(self.folder.name, "model.safetensors")
        config = "depth=2,hidden=64,classes=3,input_size=8"
        for name, path, more in (("taesd", self.decoder, ()), ("MiT", self.model, ("--config", config))):
            subprocess.run([IMFD, "synth", "--quiet", name, *more, "-o", path], check=True)

    def with_metadata(self, **metadata):
        """The same weights with other metadata."""
        with open(self.model, "rb") as f:
            data = f.read()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + size])
        header["__metadata__"].update(metadata)
        text = json.dumps(header).encode()
        fd, path = tempfile.mkstemp(".safetensors", dir=self.folder.name)
        with open(fd, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + data[8 + size:])
        return path

    URL = "/v1/images/%s/1/5.png?steps=1&omega=2&t_min=0.1&t_max=0.9"

    def tag(self, model, *flags, name="m", url=URL, decoder=None, precision="fp32", **environment):
        """The tag before the picture is drawn and with it, and its bytes."""
        with Server("--models", f"id={name},checkpoint={model},decoder={decoder or self.decoder}", "--precision", precision,
                    *flags, device="cpu", env=environment) as server:
            head = server.request("HEAD", url % name)
            self.assertEqual(head.status, 200, head.headers)
            picture = server.get(url % name)
            self.assertEqual(picture.headers["ETag"], head.headers["ETag"])
            return head.headers["ETag"], picture.body

    def precisions(self):
        """Those that this processor has."""
        bf16 = subprocess.run([IMFD, "sample", "--demo", "--precision", "bf16", "--classes", "0", "--seeds", "0", "-o",
                               os.path.join(self.folder.name, "x.png")], capture_output=True).returncode == 0
        return ["fp32", "bf16"] if bf16 else ["fp32"]

    def check(self, found):
        """Another tag each, for other bytes."""
        self.assertEqual(len({tag for tag, _ in found}), len(found))
        self.assertEqual(len({body for _, body in found}), len(found))

    def test_settings(self):
        names = [self.with_metadata(class_names=json.dumps(n)) for n in (["a", "b", "c"], ["a", "x", "c"])]
        found = [self.tag(self.model), self.tag(self.model, "--png-level", "9"), self.tag(self.model, name="other"),
                 self.tag(names[0]), self.tag(names[1]), self.tag(self.model, url=self.URL.replace("png", "jpg")),
                 self.tag(self.model, url=self.URL.replace("png", "webp")),
                 self.tag(self.model, url=self.URL.replace("png", "jpg") + "&output_compression=50"),
                 self.tag(self.model, url=self.URL.replace("png", "webp") + "&output_compression=50")]
        self.check(found)
        # A name that this picture does not carry: another fingerprint, which is embedded.
        self.check([*found, self.tag(self.with_metadata(class_names=json.dumps(["x", "b", "c"])))])
        again = self.tag(self.model)
        self.assertEqual(again, found[0])

    def test_weights(self):
        """Weights, decoder, the dict that is taken, precision."""
        other, decoder = (os.path.join(self.folder.name, n) for n in ("other.safetensors", "other_decoder.safetensors"))
        subprocess.run([IMFD, "synth", "--quiet", "taesd", "--seed", "1", "-o", decoder], check=True)
        subprocess.run([IMFD, "synth", "--quiet", "MiT", "--seed", "1", "--config", "depth=2,hidden=64,classes=3,input_size=8",
                        "-o", other], check=True)
        found = [self.tag(self.model), self.tag(other), self.tag(self.model, decoder=decoder)]
        self.check(found + [self.tag(self.model, precision=p) for p in self.precisions() if p != "fp32"])

    def test_decoder_configuration(self):
        """config.json beside an sd-vae: its groups of normalisation are in no tensor."""
        folders = [os.path.join(self.folder.name, "vae%d" % groups) for groups in (16, 8)]
        for folder in folders:
            os.mkdir(folder)
            subprocess.run([IMFD, "synth", "--quiet", "sd-vae", "--config", "channels=32:32:64:64,groups=16", "-o", folder],
                           check=True)
        config = os.path.join(folders[1], "config.json")
        with open(config) as f:
            text = json.load(f)
        with open(config, "w") as f:
            json.dump({**text, "norm_num_groups": 8}, f)
        self.check([self.tag(self.model, decoder=folder) for folder in folders])

    def test_processor(self):
        """Lower instruction sets have kernels of their own, and tags; equal tags mean equal bytes."""
        found = {}
        for isa in ("ALL", "AVX512_CORE", "AVX2", "SSE41"):
            tag, body = self.tag(self.model, ONEDNN_MAX_CPU_ISA=isa)
            self.assertEqual(found.setdefault(tag, body), body, isa)
        with open("/proc/cpuinfo") as f:
            flags = f.read()
        self.assertGreaterEqual(len(found), 1 + ("avx2" in flags) + ("avx512bw" in flags))
        if "bf16" in self.precisions():
            tags = [self.tag(self.model, precision="bf16", ONEDNN_MAX_CPU_ISA=isa)
                    for isa in ("ALL", "AVX512_CORE_BF16", "AVX512_CORE")]
            self.assertEqual(len(dict(tags)), len(set(tags)))

    def test_what_does_not_matter(self):
        """Batches, queues, caches, logs and places of files: the same tag and the same bytes."""
        elsewhere = os.path.join(self.folder.name, "elsewhere.safetensors")
        shutil.copy(self.model, elsewhere)
        wanted = self.tag(self.model)
        for flags in (("--max-batch", "3", "--decode-batch", "1"), ("--max-delay-us", "1000"),
                      ("--cache-bytes", "0", "--max-queue", "9", "--log-level", "debug")):
            self.assertEqual(self.tag(self.model, *flags), wanted, flags)
        self.assertEqual(self.tag(elsewhere), wanted)

    def test_threads(self):
        """Their number decides no bytes, or is in the tag (float32, where oneDNN picks a Winograd variant by it)."""
        for precision in self.precisions():
            found = [self.tag(self.model, "--threads", str(n), precision=precision) for n in (1, 2, 3, 4)]
            if precision == "bf16":
                self.assertEqual(len(set(found)), 1)
            self.assertEqual(len(dict(found)), len(set(found)))

    def test_libraries(self):
        """Another release of an encoder's library is another file, and so another tag; of its format alone."""
        formats = {"png": "png", "jpeg": "jpg", "webp": "webp"}
        urls = {name: self.URL.replace("png", suffix) for name, suffix in formats.items()}
        level = ("--png-level", "9")  # level 1 needs no library
        here = {name: self.tag(self.model, *level, url=url) for name, url in urls.items()}
        for other in formats:
            with self.subTest(library=other):
                there = {name: self.tag(self.model, *level, url=url, OTHER_LIBRARY=other,
                                        LD_PRELOAD=os.environ["OTHER_LIBRARIES"])
                         for name, url in urls.items()}
                for name in formats:
                    if name == other:
                        self.check([here[name], there[name]])
                    else:
                        self.assertEqual(here[name], there[name])


if __name__ == "__main__":
    unittest.main()

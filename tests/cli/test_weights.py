"""imfd synth and imfd inspect: what is written is what is found, and bad files are told apart."""
import json
import os
import re
import struct
import unittest

from cli_case import GOLDEN, CliCase, imfd

TINY = ("MiT", "--config", "depth=4,shared=2,hidden=128,classes=10", "--seed", "11")


class Synth(CliCase):
    def test_sizes(self):
        for suffix, dtype, low, high in (("pth", "f32", 3.9e6, 4.1e6), ("safetensors", "bf16", 1.9e6, 2.1e6)):
            path = self.path("tiny." + suffix)
            self.assertIn("996640 parameters", self.ok("synth", *TINY, "--dtype", dtype, "-o", path).decode())
            self.assertTrue(low < os.path.getsize(path) < high)
        self.assertEqual(sorted(os.listdir(self.folder)), ["tiny.pth", "tiny.safetensors"])

    def test_same_as_torch(self):
        """Seed 11 is the golden file's: the same fingerprint, whoever wrote it."""
        self.ok("synth", *TINY, "-o", self.path("tiny.safetensors"))
        mine = json.loads(self.ok("inspect", "--json", "--values", self.path("tiny.safetensors")))
        golden = json.loads(self.ok("inspect", "--json", "--values", os.path.join(GOLDEN, "mit_tiny/mit_tiny.pth")))
        self.assertEqual(mine["fingerprint"], golden["fingerprint"])
        self.assertEqual(mine["sizes"], golden["sizes"])
        self.ok("synth", *TINY[:-1], "12", "-o", self.path("other.safetensors"))
        other = json.loads(self.ok("inspect", "--json", "--values", self.path("other.safetensors")))
        self.assertNotEqual(other["fingerprint"], golden["fingerprint"])

    def edited(self, name, edit):
        """The tiny model as safetensors with another header and other data: edit(header, data)."""
        whole = self.path("whole.safetensors")
        self.ok("synth", *TINY, "-o", whole)
        with open(whole, "rb") as f:
            size = struct.unpack("<Q", f.read(8))[0]
            header, data = json.loads(f.read(size)), bytearray(f.read())
        header = edit(header, data) or header
        text = json.dumps(header).encode()
        with open(self.path(name), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + data)
        return self.path(name)

    def test_prefixes(self):
        """What training wraps modules in is left out of names, and said."""
        def wrap(header, data):
            return {("module._orig_mod." + k if k.startswith("net.") else k): v for k, v in header.items()}
        path = self.edited("wrapped.safetensors", wrap)
        self.assertIn("prefixes    module., _orig_mod. left out of the names", self.ok("inspect", path).decode())
        self.assertEqual(json.loads(self.ok("inspect", "--json", path))["prefixes"], ["module", "_orig_mod"])
        self.assertNotIn("prefixes", self.ok("inspect", self.path("whole.safetensors")).decode())

    def test_what_sample_would_refuse(self):
        """Not a number in a needed tensor, integers in the place of weights: inspect's exit status is sample's."""
        def spoil(pattern):
            def edit(header, data):
                name = next(k for k in header if re.search(pattern, k))
                at = header[name]["data_offsets"][0]
                data[at:at + 4] = struct.pack("<f", float("nan"))
            return edit

        def integers(header, data):
            header["net.t_min_tokens"]["dtype"] = "I32"
        for name, edit, says in (("nan", spoil(r"t_min_tokens"), "element 0 is NaN or infinite"),
                                 ("integers", integers, "of a type that no weight has"),
                                 ("unneeded", spoil(r"v_final_layer|v_heads"), None)):
            with self.subTest(name):
                path = self.edited(name + ".safetensors", edit)
                draw = ("sample", "--ckpt-path", path, "--decoder", "none", "--device", "cpu", "--classes", "1", "--seeds", "1",
                        "--save-latents", self.path("z.npy"))
                if says is None:
                    self.ok("inspect", path)
                    self.ok(*draw)
                    self.assertEqual(imfd("inspect", "--values", path)[0], 1)
                    continue
                status, output, _ = imfd("inspect", path)
                self.assertEqual(status, 1)
                self.assertIn(says, output.decode())
                self.assertEqual(imfd(*draw)[0], 1)

    def test_folder(self):
        self.ok("synth", "sd-vae", "--config", "channels=32:32:64:64,groups=16", "-o", self.folder)
        with open(self.path("config.json")) as f:
            config = json.load(f)
        self.assertEqual((config["norm_num_groups"], config["block_out_channels"]), (16, [32, 32, 64, 64]))
        found = json.loads(self.ok("inspect", "--json", self.folder))
        self.assertEqual((found["kind"], found["parameters"]), ("sd-vae", 819191))
        self.assertEqual(found["sizes"]["up_channels"], [64, 64, 32, 32])

    def test_others(self):
        for model, kind, count in (("taesd", "taesd", 1222531), ("inception", "InceptionV3", 23885392)):
            path = self.path(model + ".pth")
            self.ok("synth", model, "-q", "-o", path)
            found = json.loads(self.ok("inspect", "--json", path))
            self.assertEqual((found["kind"], found["parameters"], found["missing"]), (kind, count, []))

    def test_refused(self):
        out = self.path("x.pth")
        for words, args in (
            ("-o FILE", ("MiT_B_2",)),
            ("name a model", ("-o", out)),
            ("MiT_Q", ("MiT_Q", "-o", out)),
            (".safetensors", ("taesd", "-o", self.path("x.onnx"))),
            ("--dtype", ("taesd", "--dtype", "int8", "-o", out)),
            ("--config", ("MiT", "-o", out)),
            ("depth=x", ("MiT", "--config", "depth=x", "-o", out)),
            ("hidden is 100", ("MiT", "--config", "hidden=100", "-o", out)),
            ("unknown key \"width\"", ("MiT", "--config", "width=100", "-o", out)),
            ("shared is 9", ("MiT", "--config", "depth=4,shared=9", "-o", out)),
            ("groups", ("sd-vae", "--config", "channels=30:60", "-o", out)),
            ("no such size", ("taesd", "--config", "depth=3", "-o", out)),
            ("is a folder", ("taesd", "-o", self.folder)),
        ):
            self.refused(2, words, "synth", *args)
        self.refused(1, "No such file", "synth", "taesd", "-o", "/nowhere/x.pth")
        self.assertEqual(os.listdir(self.folder), [])


class Inspect(CliCase):
    def header(self, entries, data):
        text = json.dumps(entries).encode()
        return struct.pack("<Q", len(text)) + text + data

    def test_text(self):
        out = self.ok("inspect", os.path.join(GOLDEN, "mit_tiny/mit_tiny.pth")).decode()
        for word in ("MiT_d4_h128", "torch zip, float32", "996640 parameters", "10 classes", "0 missing, 0 wrong, 0 extra"):
            self.assertIn(word, out)

    def test_missing_wrong_extra(self):
        entry = lambda shape, at: {"dtype": "F32", "shape": shape, "data_offsets": [at, at]}
        # Sizes of nothing need no data; the model's own are read off these three.
        path = self.write("m.safetensors", self.header({
            "net.x_embedder.proj.weight": {"dtype": "F32", "shape": [64, 1, 1, 1], "data_offsets": [0, 256]},
            "net.y_embedder.embedding_table._flax_embedding.weight":
                {"dtype": "F32", "shape": [2, 64], "data_offsets": [256, 768]},
            "net.u_heads.0.mlp.w1._flax_linear.weight": {"dtype": "F32", "shape": [1, 64], "data_offsets": [768, 1024]},
            "net.u_heads.0.norm1.weight": entry([0], 1024),
            "net.v_heads.0.norm1.weight": entry([0], 1024),
            "net.step": {"dtype": "F32", "shape": [], "data_offsets": [1024, 1028]},
            "net.what\u001b[31m": {"dtype": "F32", "shape": [2], "data_offsets": [1028, 1036]}}, bytes(1036)))
        status, out, err = imfd("inspect", "--json", path)
        self.assertEqual(status, 1, err)
        found = json.loads(out)
        self.assertIn("net.u_final_layer.norm.weight", found["missing"])
        self.assertEqual(found["mismatched"], [{"name": "net.u_heads.0.norm1.weight", "expected": [64], "found": [0]}])
        self.assertEqual((found["extra"], found["not_needed"]), (["net.what\u001b[31m"], 2))
        out = imfd("inspect", path)[1]
        self.assertIn(b"net.what?[31m", out)
        self.assertNotIn(b"\x1b", out)

    def test_defaults(self):
        """What serve starts from: the metadata's values before those of the size."""
        self.ok("synth", *TINY, "-o", self.path("tiny.safetensors"))
        with open(self.path("tiny.safetensors"), "rb") as f:
            data = f.read()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + size])
        for metadata, status, omega in (({"default_omega": "2.5", "default_steps": "3"}, 0, 2.5), (None, 0, 7.5),
                                        ({"default_omega": "0.5"}, 1, None), ({"input_size": "x"}, 1, None),
                                        ({"class_names": '["a"]'}, 1, None)):
            header["__metadata__"] = metadata
            path = self.write("m.safetensors", self.header(header, data[8 + size:]))
            found = imfd("inspect", "--json", path)
            sampled = imfd("sample", "--ckpt-path", path, "--decoder", "none", "--classes", "1", "--seeds", "1",
                           "--save-latents", self.path("z.npy"))
            self.assertEqual((found[0], sampled[0]), (status, status), (metadata, found[2], sampled[2]))
            if omega:
                defaults = json.loads(found[1])["defaults"]
                self.assertEqual(defaults["steps"], 3 if metadata else 1)
                self.assertEqual(defaults["omega"], omega if metadata else defaults["omega"])

    def test_beside(self):
        """Classes of what stands beside the weights are named."""
        path = os.path.join(GOLDEN, "torch/zip_beside.pth")
        status, out, err = imfd("inspect", path)
        self.assertEqual(status, 1, err)  # its ten tensors make no model
        for name in (b"omegaconf.dictconfig.DictConfig", b"datetime.datetime", b"mylib.colours.Colour"):
            self.assertIn(name, out)
        self.assertIn("collections.deque", json.loads(imfd("inspect", "--json", path)[1])["skipped_objects"])

    def test_not_finite(self):
        path = self.write("nan.safetensors", self.header(
            {"net.w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, struct.pack("<2f", 1, float("nan"))))
        status, out, err = imfd("inspect", path)  # finite or not, it is no model
        self.assertEqual(status, 1, err)
        self.assertIn(b"no model known here", out)
        self.assertNotIn(b"0 missing", out)
        self.refused(1, ["nan.safetensors", '"net.w"', "element 1 is NaN"], "inspect", "--values", path)

    def test_refused(self):
        self.refused(2, "name a file", "inspect")
        self.refused(1, "No such file", "inspect", self.path("none.pth"))
        self.refused(1, "text.pth", "inspect", self.write("text.pth", "hello, this is no checkpoint"))
        self.refused(1, "no checkpoint", "inspect", self.write("empty.pth", ""))
        self.refused(1, "\"torch.nn.modules.linear.Linear\"", "inspect", os.path.join(GOLDEN, "torch/refused_module.pth"))
        with open(os.path.join(GOLDEN, "mit_tiny/mit_tiny.pth"), "rb") as f:
            data = f.read(1000000)
        self.refused(1, ["cut.pth", "truncated"], "inspect", self.write("cut.pth", data))


if __name__ == "__main__":
    unittest.main()

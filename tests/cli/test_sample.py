"""imfd sample: latents against the goldens, forms of output, refusals."""
import json
import os
import re
import struct
import unittest

from cli_case import GOLDEN, CliCase, imfd, read_npy, read_png, relative_error

DEMO = os.path.join(os.path.dirname(os.path.dirname(GOLDEN)), "models", "demo", "mit_demo.safetensors")
TINY = os.path.join(GOLDEN, "mit_tiny", "mit_tiny.pth")
CPU = ["--device", "cpu", "--precision", "fp32"]


def sample(*args):
    return ["sample", "--ckpt-path", TINY, *CPU, *args]


class Decoders(CliCase):
    def test_taesd_as_diffusers_stores_it(self):
        """Layers counted from the first convolution, and an encoder that nobody asked for."""
        plain, stored = self.path("taesd.safetensors"), self.path("stored.safetensors")
        self.ok("synth", "taesd", "-q", "-o", plain)
        with open(plain, "rb") as f:
            size, = struct.unpack("<Q", f.read(8))
            tensors, values = json.loads(f.read(size)), f.read()
        header = {"encoder.layers.0.bias": {"dtype": "F32", "shape": [1], "data_offsets": [len(values), len(values) + 4]}}
        for name, entry in tensors.items():
            layer, dot, rest = name.partition(".")
            header[f"decoder.layers.{int(layer) - 1}.{rest}" if layer.isdigit() else name] = entry
        text = json.dumps(header).encode()
        with open(stored, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + values + bytes(4))
        pictures = []
        for decoder in (plain, stored):
            out = self.path("out.png")
            self.ok(*sample("--decoder", decoder, "--classes", "3", "--seeds", "1", "-o", out))
            pictures.append(read_png(out)[2])
        self.assertEqual(*pictures)


class Latents(CliCase):
    def check(self, case, *args):
        z = self.path("z.npy")
        self.ok(*sample("--decoder", "none", "--save-latents", z, *args))
        shape, values = read_npy(z)
        golden_shape, golden = read_npy(os.path.join(GOLDEN, "mit_tiny", f"latents_{case['name']}.npy"))
        self.assertEqual(shape, golden_shape)
        self.assertLess(relative_error(values, golden), 1e-4)

    def test_golden_cases_by_flags(self):
        for case in self.cases():
            if isinstance(case["omega"], list):
                continue
            with self.subTest(case["name"]):
                self.check(case, "--classes", ",".join(map(str, case["labels"])), "--seeds",
                           ",".join(map(str, case["seeds"])), "--num-sampling-steps", case["steps"], "--cfg-omega",
                           case["omega"], "--interval-min", case["t_min"], "--interval-max", case["t_max"])

    def test_golden_cases_by_json(self):
        # --max-batch 3 cuts the four samples of one case in two batches.
        for case in self.cases():
            with self.subTest(case["name"]):
                entries = []
                for i, (label, seed) in enumerate(zip(case["labels"], case["seeds"])):
                    entry = {"class": label, "seed": seed, "steps": case["steps"]}
                    for key in ("omega", "t_min", "t_max"):
                        entry[key] = case[key][i] if isinstance(case[key], list) else case[key]
                    entries.append(entry)
                file = self.write("per_sample.json", json.dumps(entries))
                self.check(case, "--per-sample", file, "--max-batch", "3")

    def cases(self):
        with open(os.path.join(GOLDEN, "mit_tiny", "cases.json")) as f:
            return json.load(f)["cases"]

    def test_mixed_steps_share_a_batch(self):
        # Lanes that finish early make room: every sample must come out as when drawn alone.
        entries = [{"class": i % 10, "seed": i, "steps": 1 + i * 5 % 7} for i in range(9)]
        together, alone = self.path("together.npy"), self.path("alone.npy")
        base = sample("--decoder", "none", "--omega", "4", "--t-min", "0.2", "--t-max", "0.8")
        self.ok(*base, "--per-sample", self.write("p.json", json.dumps(entries)), "--max-batch", 4, "--save-latents", together)
        _, values = read_npy(together)
        for i in (0, 4, 8):
            self.ok(*base, "--per-sample", self.write("one.json", json.dumps(entries[i:i + 1])), "--save-latents", alone)
            self.assertEqual(read_npy(alone)[1], values[i * 4096:(i + 1) * 4096], f"sample {i}")

    def test_default_grid_of_a_small_model(self):
        z = self.path("z.npy")
        self.ok(*sample("--save-latents", z))
        self.assertEqual(read_npy(z)[0], (8, 4, 32, 32))


class ClassNames(CliCase):
    """The demo model has names of its own; a copy gives two of its classes the same one."""

    def draw(self, *args):
        z = self.path("z.npy")
        self.ok("sample", "--demo", *CPU, "--save-latents", z, *args)
        return read_npy(z)

    def test_names_are_indices(self):
        with open(DEMO, "rb") as f:
            names = json.loads(self.header(f)["__metadata__"]["class_names"])
        seeds = ["--seeds", "5,6,7,8,9"]
        expected = self.draw("--classes", "1,1,2,3,%d" % len(names), *seeds)
        named = ",".join([names[1].split(", ")[0].upper(), "1", "2-3", "none"])
        self.assertEqual(self.draw("--classes", named, *seeds), expected)
        blanks = " %s ,1,2,%s,none" % (names[1].split(", ")[-1], names[3].split(", ")[0].replace(" ", "_"))
        self.assertEqual(self.draw("--classes", blanks, *seeds), expected)

    def test_one_name_for_all_seeds(self):
        self.assertEqual(self.draw("--classes", "cat", "--seeds", "3,4"), self.draw("--classes", "1", "--seeds", "3,4"))

    def test_names_in_a_file(self):
        file = self.write("p.json", json.dumps([{"class": "cat", "seed": 3}, {"class": "2", "seed": 4}, {"class": 3, "seed": 5},
                                                {"class": "none", "seed": 6}]))
        self.assertEqual(self.draw("--per-sample", file), self.draw("--classes", "1,2,3,none", "--seeds", "3,4,5,6"))

    def test_imagenet(self):
        """Names and WordNet ids of a model of 1000 classes, in any spelling; a word that is no class, or two."""
        model, z = self.path("imagenet.safetensors"), self.path("z.npy")
        self.ok("synth", "--quiet", "MiT", "--config", "depth=2,hidden=64,classes=1000,input_size=8", "-o", model)
        base = ["sample", "--ckpt-path", model, "--decoder", "none", *CPU, "--save-latents", z]

        def draw(*args):
            self.ok(*base, *args)
            return read_npy(z)
        wanted = draw("--classes", "207,207,207,360,88", "--seeds", "1,2,3,4,5")
        self.assertEqual(draw("--classes", "n02099601,Golden_Retriever,golden retriever,otter,macaw", "--seeds", "1,2,3,4,5"),
                         wanted)
        file = self.write("p.json", json.dumps([{"class": c, "seed": i + 1} for i, c in enumerate(
            ["golden retriever", "n02099601", "207", "OTTER", 88])]))
        self.assertEqual(draw("--per-sample", file), wanted)
        self.refused(2, ['no class is called "cat"', "281 (tabby)"], *base, "--classes", "cat")
        self.refused(2, ['several classes are called "crane"', "134 (crane)", "517 (crane)"], *base, "--classes", "crane")

    def test_examples_of_the_readme(self):
        """Before it comes to other models, README speaks of the demo's classes."""
        with open(DEMO, "rb") as f:
            names = json.loads(self.header(f)["__metadata__"]["class_names"])
        with open(os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(DEMO))), "README.md"), encoding="utf-8") as f:
            text = f.read()
        first = text[:text.index("**Which models?**")]
        used = re.findall(r"""(?:"class": "|class: '|/images/demo/|prompt=")(\w+)""", first)
        used += re.findall(r"sample --demo --classes (\w+)", text)
        self.assertGreater(len(used), 5)
        self.assertEqual(set(used) - set(names), set())

    def test_refused_with_candidates(self):
        z = self.path("z.npy")
        demo = ["sample", "--demo", *CPU, "--save-latents", z]
        self.refused(2, ['no class is called "ca"', "1 (cat)"], *demo, "--classes", "ca")
        self.refused(2, ['--classes: no class is called "zebrafish"', "classes are 0 (smiley) to 19 (rocket)"], *demo,
                     "--classes", "1,zebrafish")
        file = self.write("p.json", '[{"class": 1}, {"class": "zebrafish"}]')
        self.refused(2, '--per-sample: no class is called "zebrafish"', *demo, "--per-sample", file)
        self.refused(2, 'no class is called "-1"', *demo, "--classes", "-1")
        self.refused(2, 'no class is called "1-"', *demo, "--classes", "1-")
        with open(DEMO, "rb") as f:
            header, values = self.header(f), f.read()
        names = json.loads(header["__metadata__"]["class_names"])
        names[2] = names[5] = "crane"
        header["__metadata__"]["class_names"] = json.dumps(names)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        twice = self.path("twice.safetensors")
        with open(twice, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + values)
        self.refused(2, ['several classes are called "crane"', "2 (crane)", "5 (crane)"], "sample", "--ckpt-path", twice,
                     *CPU, "--save-latents", z, "--classes", "crane")
        self.assertFalse(os.path.exists(z))

    @staticmethod
    def header(f):
        size, = struct.unpack("<Q", f.read(8))
        return json.loads(f.read(size))


class Pictures(CliCase):
    @classmethod
    def setUpClass(cls):
        # The demo model where it is there, else a synthetic taesd behind mit_tiny.
        import tempfile
        cls.store = tempfile.TemporaryDirectory(prefix="imfd-cli-")
        cls.decoder = os.path.join(cls.store.name, "taesd.safetensors")
        status, _, err = imfd("synth", "taesd", "--seed", "3", "-o", cls.decoder)
        assert status == 0, err

    @classmethod
    def tearDownClass(cls):
        cls.store.cleanup()

    def test_all_outputs_agree(self):
        grid, raw, folder = self.path("grid.png"), self.path("raw.npy"), self.path("a/b")
        base = sample("--decoder", self.decoder, "--classes", "3,7,1", "--seeds", "0,1,5", "--omega", "8")
        self.ok(*base, "-o", grid, "--columns", 2, "--save-images", folder)
        self.ok(*base, "-o", raw)
        shape, values = read_npy(raw)
        self.assertEqual(shape, (3, 256, 256, 3))
        width, height, rgb, _ = read_png(grid)
        self.assertEqual((width, height), (512, 512))
        names = sorted(os.listdir(folder))
        self.assertEqual(names, ["00000_class3_seed0.png", "00001_class7_seed1.png", "00002_class1_seed5.png"])
        for i, name in enumerate(names):
            w, h, single, texts = read_png(os.path.join(folder, name))
            self.assertEqual((w, h), (256, 256))
            self.assertEqual(single, values[i * 196608:(i + 1) * 196608].tobytes())
            self.assertIn("Sampler: iMF", texts["parameters"])
            self.assertEqual(json.loads(texts["imfd"])["class"], [3, 7, 1][i])
            x, y = i % 2 * 256, i // 2 * 256
            for row in (0, 100, 255):
                at = ((y + row) * 512 + x) * 3
                self.assertEqual(rgb[at:at + 768], single[row * 768:(row + 1) * 768])
        blank = ((256 + 9) * 512 + 256) * 3
        self.assertEqual(rgb[blank:blank + 768], bytes(768))

    def test_release_grid_to_stdout(self):
        width, height, _, _ = read_png(self.ok(*sample("--decoder", self.decoder, "-o", "-")))
        self.assertEqual((width, height), (4 * 256, 2 * 256))

    def test_workdir_as_the_release_does(self):
        self.ok(*sample("--decoder", self.decoder, "--classes", 1, "--workdir", self.path("out"), "--fid-ref", "x.npz",
                        "--save-samples"))
        self.assertEqual(os.listdir(self.path("out")), ["grid.png"])


class Refusals(CliCase):
    def test_flags(self):
        for words, *args in [
            ("--ckpt-path is needed", "--decoder", "none"),
            ("--steps", "--steps", "0"), ("--steps", "--steps", "65"), ("--steps", "--steps", "two"),
            ("--omega", "--omega", "0.5"), ("--omega", "--omega", "nan"), ("--t-min", "--t-min", "-1"),
            ("--t-max", "--t-max", "1.5"), ("--classes", "--classes", "1,,2"), ("--classes", "--classes", "dog,"),
            ("--classes", "--classes", ""), ("--classes", "--classes", "7-3"), ("--classes", "--classes", "2147483648"),
            ("--classes", "--classes", "0-65536"), ("--classes", "--classes", "cat," + "x" * 201),
            ("--seeds", "--seeds", "-1"), ("--max-batch", "--gen-bsz", "0"),
            (["--classes has 2", "--seeds 3"], "--classes", "1,2", "--seeds", "1,2,3"),
            ("either", "--classes", "1", "--num-images", "4"), ("unexpected argument", "picture.png"),
            ("needs a value", "--output"), ("takes no value", "--demo=1"),
        ]:
            with self.subTest(args):
                self.refused(2, words, "sample", *args)
        z = self.path("z.npy")
        self.refused(2, "--precision", *sample("--precision", "fp8", "--save-latents", z))
        self.refused(2, "device", *sample("--device", "abacus", "--save-latents", z))
        self.refused(2, ["class 11", "0 to 10"], *sample("--classes", "11", "--save-latents", z))
        self.refused(2, "t_min", *sample("--classes", "1", "--t-min", "0.9", "--t-max", "0.1", "--save-latents", z))
        self.refused(2, ["--model MiT_XL_2", "MiT_d4_h128"], *sample("--model", "MiT_XL_2", "--save-latents", z))
        self.refused(2, "--decoder is needed", *sample("-o", self.path("x.png")))
        self.refused(2, "--decoder", *sample("--decoder", "none", "-o", self.path("x.png")))
        self.refused(2, ".png or .npy", *sample("--decoder", "none", "-o", self.path("x.jpg")))
        self.assertFalse(os.path.exists(z))

    def test_json(self):
        for words, text in [
            ("line 2", '[{"class": 1},\n {"class": }]'), ("list", "{}"), ("list", "[]"), ("JSON", ""), ("JSON", "[1] x"),
            ("entry 1 is not an object", '[{"class": 1}, 7]'), ('no "class"', '[{"seed": 1}]'),
            ("unknown key", '[{"class": 1, "sead": 2}]'), ("twice", '[{"class": 1, "class": 2}]'),
            ('"class"', '[{"class": 1.5}]'), ('"class"', '[{"class": ""}]'), ('"class"', '[{"class": null}]'),
            ('"class"', '[{"class": "%s"}]' % ("x" * 300)), ('"class"', '[{"class": -1}]'), ('"seed"', '[{"class": 1, "seed": 1e300}]'),
            ('"steps"', '[{"class": 1, "steps": 0}]'), ('"omega"', '[{"class": 1, "omega": "8"}]'),
            ("JSON", '[{"class": 1}\0]'), ("JSON", "[" * 100000),
        ]:
            with self.subTest(text[:40]):
                file = self.write("p.json", text)
                self.refused(2, [file, words], *sample("--per-sample", file, "--save-latents", self.path("z.npy")))
        self.refused(1, "No such file", *sample("--per-sample", self.path("missing.json"), "--save-latents", self.path("z")))

    def test_files(self):
        z = self.path("z.npy")
        self.refused(1, ["missing.pth", "No such file"], "sample", "--ckpt-path", self.path("missing.pth"), *CPU,
                     "--save-latents", z)
        self.refused(1, "text.pth", "sample", "--ckpt-path", self.write("text.pth", "hello"), *CPU, "--save-latents", z)
        self.refused(1, "decoder.bin", *sample("--decoder", self.path("decoder.bin"), "-o", self.path("x.png")))
        self.refused(1, "No such file", *sample("--save-latents", self.path("no/such/folder/z.npy")))
        self.refused(1, "is a folder", *sample("--save-latents", self.folder))
        self.refused(1, "plain", *sample("--decoder", TINY, "--save-images", self.write("plain", "x") + "/sub"))
        self.refused(1, "/dev/full", *sample("--save-latents", "/dev/full"))
        self.assertFalse(os.path.exists(z))


if __name__ == "__main__":
    unittest.main()

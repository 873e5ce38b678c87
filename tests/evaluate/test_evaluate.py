"""imfd evaluate end to end on small synthetic networks: one, two and four ranks, killed, stopped and resumed,
and scored again from its own PNGs, all give the same numbers, to the last bit. IMAGES says how many pictures;
INCEPTION is a narrow InceptionV3, INCEPTION_FULL (may be missing) the published size."""
import array
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest
import zipfile
import zlib

IMFD = os.environ["IMFD"]
INCEPTION = os.environ["INCEPTION"]
INCEPTION_FULL = os.environ.get("INCEPTION_FULL")
MPIRUN = os.environ.get("MPIRUN")
GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")
MIT_TINY = os.path.join(GOLDEN, "mit_tiny", "mit_tiny.pth")
IMAGES, CLASSES, DIM, SIDE = int(os.environ["IMAGES"]), 10, 2048, 64
NUMBERS = ("fid", "inception_score", "kid", "precision", "recall")


def npy(values, shape, descr):
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (63 - (10 + len(head)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + values.tobytes()


def write_reference(path, sigma_type="d", sigma_shape=(DIM, DIM), leave_out=None):
    """Reference statistics with features, as numpy.savez_compressed writes them."""
    rng = random.Random(1)
    sigma = array.array(sigma_type, bytes(array.array(sigma_type, [0]).itemsize * sigma_shape[0] * sigma_shape[1]))
    for i in range(min(sigma_shape)):
        sigma[i * sigma_shape[1] + i] = 1e-4 * (1 + i % 5)
    arrays = {
        "mu": npy(array.array("f", (0.2 + 1e-4 * (i % 7) for i in range(DIM))), (DIM,), "<f4"),
        "sigma": npy(sigma, sigma_shape, "<f8" if sigma_type == "d" else "<f4"),
        "features": npy(array.array("f", (0.2 + 0.02 * rng.random() for _ in range(60 * DIM))), (60, DIM), "<f4"),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
        for name, data in arrays.items():
            if name != leave_out:
                z.writestr(name + ".npy", data)
    return path


def read_png(path):
    """(width, height, rows of RGB bytes) of an 8-bit RGB PNG."""
    with open(path, "rb") as f:
        data = f.read()
    at, idat, width, height = 8, b"", 0, 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
        elif kind == b"IDAT":
            idat += body
        at += 12 + size
    raw, rows, before = zlib.decompress(idat), [], bytes(3 * width)
    for y in range(height):
        kind, line = raw[y * (3 * width + 1)], bytearray(raw[y * (3 * width + 1) + 1:(y + 1) * (3 * width + 1)])
        for i in range(3 * width):
            a, b, c = line[i - 3] if i > 2 else 0, before[i], before[i - 3] if i > 2 else 0
            p = (0, a, b, (a + b) // 2, min((abs(b - c), a), (abs(a - c), b), (abs(a + b - 2 * c), c),
                                            key=lambda t: t[0])[1])[kind]
            line[i] = (line[i] + p) & 255
        rows.append(bytes(line))
        before = rows[-1]
    return width, height, rows


class Evaluate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="imfd-evaluate-")
        cls.model, cls.vae = os.path.join(cls.root, "mit.safetensors"), os.path.join(cls.root, "vae")
        os.mkdir(cls.vae)
        cls.synth("MiT", "depth=2,hidden=64,classes=10,input_size=8", 3, cls.model)
        cls.synth("sd-vae", "channels=16:16:32:32,groups=8", 5, cls.vae)
        cls.reference = write_reference(os.path.join(cls.root, "reference.npz"))

    @staticmethod
    def synth(name, config, seed, path):
        subprocess.run([IMFD, "synth", name, "--config", config, "--seed", str(seed), "-o", path, "--quiet"], check=True)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root)

    def path(self, name):
        return os.path.join(self.root, name)

    def command(self, workdir, *more, ranks=0, source=None, inception=INCEPTION):
        source = source or ["--ckpt-path", self.model, "--decoder", self.vae, "--num-images", str(IMAGES)]
        mpi = [MPIRUN, "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)] if ranks else []
        return mpi + [IMFD, "evaluate", *source, "--inception", inception, "--device", "cpu", "--workdir",
                      self.path(workdir), *more]

    def scored(self, workdir):
        """Flags that ask for every number and for the statistics themselves."""
        return ("--fid-ref", self.reference, "--kid", "--kid-subsets", "5", "--kid-subset-size", "50",
                "--precision-recall", "--make-ref", self.path(workdir + ".npz"), "--keep-features")

    def environment(self, command):
        # Open MPI leaks by design; what imfd leaks shows in the runs without it.
        options = os.environ.get("ASAN_OPTIONS", "")
        return dict(os.environ, ASAN_OPTIONS=options + ":detect_leaks=0") if command[0] == MPIRUN else os.environ

    def run_ok(self, command, status=0):
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment(command),
                           timeout=500)
        self.assertEqual(p.returncode, status, p.stderr.decode() + p.stdout.decode())
        return p.stdout.decode(), p.stderr.decode()

    def refused(self, words, command, status=None):
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment(command),
                           timeout=500)
        self.assertIn(p.returncode, (1, 2) if status is None else (status,), p.stderr.decode())
        self.assertIn(words, p.stderr.decode())

    def start(self, command, **more):
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=self.environment(command), **more)

    def results(self, workdir):
        with open(os.path.join(self.path(workdir), "results.json")) as f:
            return json.load(f)

    def assert_same(self, workdir):
        ours, first = self.results(workdir), self.results("one")
        for name in NUMBERS:
            self.assertEqual(ours[name], first[name], name)
        with zipfile.ZipFile(self.path(workdir + ".npz")) as a, zipfile.ZipFile(self.path("one.npz")) as b:
            for name in ("mu.npy", "sigma.npy", "features.npy"):
                self.assertTrue(a.read(name) == b.read(name), f"{name} of {workdir}")

    def wait_for(self, process, path, size=0):
        """Until the file is there and has that many bytes."""
        end = time.monotonic() + 300
        while not os.path.exists(path) or os.path.getsize(path) < size:
            self.assertIsNone(process.poll(), "it ended before anything was saved")
            self.assertLess(time.monotonic(), end, f"no {path}")
            time.sleep(0.02)

    # The tests run in the order of their names; the first makes what the others compare with.

    def test_1_one_rank(self):
        out, _ = self.run_ok(self.command("one", *self.scored("one"), "--save-samples"))
        self.assertIn("FID ", out)
        self.assertIn("MiT_XL_2       2     4.0   0.36   0.64    1.54   288.9", out)
        r = self.results("one")
        self.assertEqual(r["images"], IMAGES)
        self.assertEqual(r["settings"]["sample_seed"], "42")
        self.assertGreater(r["fid"], 0)
        self.assertEqual(r["command"][:2], ["imfd", "evaluate"])
        self.assertGreaterEqual(r["inception_score"]["mean"], 1)
        self.assertGreater(r["inception"]["ratio"], 0)
        self.assertEqual(sorted(os.listdir(self.path("one"))),
                         ["grid.png", "report.html", "report.txt", "results.json", "samples"])
        self.assertEqual(len(os.listdir(self.path("one/samples"))), IMAGES)
        with open(self.path("one/report.html")) as f:
            self.assertIn("grid.png", f.read())
        with open(self.path("one/grid.png"), "rb") as f:
            self.assertEqual(struct.unpack(">II", f.read(24)[16:]), (8 * SIDE, 8 * SIDE))

    def test_2_ranks(self):
        if not MPIRUN:
            self.skipTest("no Open MPI")
        for ranks, more in (2, ("--threads", "1")), (4, ("--gen-bsz", "5", "--threads", "2")):
            name = f"ranks{ranks}"
            self.run_ok(self.command(name, *self.scored(name), *more, ranks=ranks))
            self.assert_same(name)
            self.assertEqual(self.results(name)["ranks"], ranks)

    def test_3_killed_and_resumed(self):
        """Killed outright; then, on two ranks where there is MPI, told to stop; then finished alone on two devices."""
        flags = (*self.scored("killed"), "--checkpoint-seconds", "1")
        state = self.path("killed/rank-0000.state")
        p = self.start(self.command("killed", *flags), stderr=subprocess.DEVNULL)
        self.wait_for(p, state)
        p.kill()
        p.wait()
        self.refused("other settings (omega: 8 there, 3 now)", self.command("killed", *flags, "--omega", "3"), 1)
        shutil.copytree(self.path("killed"), self.path("damaged"))
        with open(self.path("damaged/rank-0000.state"), "r+b") as f:
            f.seek(-5000000, os.SEEK_END)
            byte = f.read(1)[0]
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte ^ 1]))
        self.refused("rank-0000.state: damaged", self.command("damaged", *flags), 1)
        ranks = 2 if MPIRUN else 0
        p = self.start(self.command("killed", *flags, ranks=ranks), stderr=subprocess.PIPE)
        err = b""
        while b"going on after" not in err:
            line = p.stderr.readline()
            self.assertTrue(line, err.decode())
            err += line
        if MPIRUN and IMAGES >= 1000:  # long enough for the second rank to have done, and to leave, something
            self.wait_for(p, self.path("killed/rank-0001.logits"), 1)
        p.send_signal(signal.SIGUSR1 if MPIRUN else signal.SIGINT)
        err += p.communicate(timeout=300)[1]
        self.assertIn("stopped and saved after", err.decode())
        self.assertNotEqual(p.returncode, 0)
        self.assertFalse(os.path.exists(self.path("killed/results.json")))
        _, err = self.run_ok(self.command("killed", *flags, "--device", "cpu,cpu"))  # two devices in one process
        self.assertIn("going on after", err)
        self.assert_same("killed")
        self.assertFalse([f for f in os.listdir(self.path("killed")) if f.startswith("rank-")])

    def test_4_pictures(self):
        """The PNGs that were kept score the same; Ctrl-C saves here too."""
        source = ["--images", self.path("one/samples")]
        flags = (*self.scored("pictures"), "--checkpoint-seconds", "1")
        p = self.start(self.command("pictures", *flags, source=source), stderr=subprocess.PIPE)
        self.wait_for(p, self.path("pictures/rank-0000.state"))
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=300)
        self.assertEqual(p.returncode, 130, err.decode())
        self.run_ok(self.command("pictures", *flags, source=source))
        self.assert_same("pictures")

    def test_5_labels_and_seeds(self):
        """Image k of N has label k / (N / classes) and seed k XOR 42."""
        k = IMAGES - 3
        self.run_ok([IMFD, "sample", "--ckpt-path", self.model, "--decoder", self.vae, "--device", "cpu", "--classes",
                     str(k // (IMAGES // CLASSES)), "--seeds", str(k ^ 42), "-o", self.path("k.png")])
        width, height, rows = read_png(self.path("k.png"))
        kept = read_png(self.path(f"one/samples/{k:05d}.png"))
        self.assertEqual((width, height), kept[:2])
        worst = max(abs(a - b) for x, y in zip(rows, kept[2]) for a, b in zip(x, y))
        self.assertLessEqual(worst, 1)  # Winograd in sample, none in evaluate

    def test_6_finished(self):
        """A finished evaluation is shown again at once; one with other settings is not overwritten."""
        command = self.command("one", *self.scored("one"))
        start = time.monotonic()
        out, err = self.run_ok(command[:command.index("--make-ref")])
        self.assertIn("holds this evaluation already", err)
        self.assertIn("FID ", out)
        self.assertLess(time.monotonic() - start, 60)
        self.refused("finished evaluation with other settings", self.command("one", "--sample-seed", "7"), 1)

    def test_7_bad_input(self):
        images = self.path("few")
        os.mkdir(images)
        for k in range(12):
            shutil.copy(self.path(f"one/samples/{k:05d}.png"), images)
        source = ["--images", images]
        bad = self.path("bad.npz")
        self.refused("not a multiple of the model's 10 classes", self.command("bad", source=[
            "--ckpt-path", self.model, "--decoder", self.vae, "--num-images", "203"]), 2)
        self.refused("not --model MiT_L_2", self.command("bad", "--model", "MiT_L_2"), 2)
        command = self.command("bad", source=source)
        command[command.index(INCEPTION)] = self.model
        self.refused("Conv2d_1a_3x3.conv.weight is missing", command, 1)
        write_reference(bad, leave_out="sigma")
        self.refused('"sigma" is missing', self.command("bad", "--fid-ref", bad, source=source), 1)
        write_reference(bad, sigma_type="f", sigma_shape=(DIM, DIM))
        self.refused("sigma must be float64", self.command("bad", "--fid-ref", bad, source=source), 1)
        write_reference(bad, sigma_shape=(4, DIM))
        self.refused("square", self.command("bad", "--fid-ref", bad, source=source), 1)
        write_reference(bad, leave_out="features")
        self.refused("holds no features", self.command("bad", "--fid-ref", bad, "--kid", source=source), 2)
        self.refused("either --ckpt-path", [IMFD, "evaluate", "--inception", INCEPTION, "--workdir", bad], 2)
        os.makedirs(self.path("no_room"))
        os.symlink("/dev/full", self.path("no_room/rank-0000.logits"))
        self.refused("free some space", self.command("no_room", source=source), 1)
        # Statistics can be made of two pictures; other formats are left out aloud, folders too.
        two = self.path("two")
        os.makedirs(os.path.join(two, "folder.png"))
        for k in range(2):
            shutil.copy(os.path.join(images, f"{k:05d}.png"), two)
        for name in ("a.gif", "b.bmp", "c.tiff"):
            shutil.copy(os.path.join(images, "00000.png"), os.path.join(two, name))
        self.refused("needs at least 10", self.command("two_work", source=["--images", two]), 2)
        out, err = self.run_ok(self.command("two_work", "--make-ref", self.path("two.npz"), source=["--images", two]))
        self.assertIn("2 PNG; left out: 3 of other formats", err)
        self.assertIn("needs 10 pictures", out)
        out, _ = self.run_ok(self.command("two_again", "--make-ref", self.path("again.npz"), "--fid-ref",
                                          self.path("two.npz"), source=["--images", two]))
        fid = self.results("two_again")["fid"]
        self.assertTrue(0 <= fid < 1e-6, fid)
        self.assertNotIn("-0.000000", out)
        with open(os.path.join(images, "00005.png"), "r+b") as f:
            f.truncate(2000)
        self.refused("00005.png: damaged PNG", self.command("bad", source=source), 1)
        with open(os.path.join(images, "00005.png"), "wb") as f:
            f.write(b"GIF89a")
        self.refused("00005.png: cannot be read as a PNG", self.command("bad", source=source), 1)
        self.refused("statistics need at least 2", self.command("bad", source=["--images", self.path("vae")]), 2)

    def test_8_release_table(self):
        """All rows whose checkpoints are there, by one command: here small networks under the published names, said
        not to compare."""
        folder, rows = self.path("checkpoints"), [("MiT_XL_2", 1), ("MiT_XL_2", 2)]
        os.mkdir(folder)
        self.synth("MiT", "depth=2,hidden=64,classes=10,input_size=8", 7, f"{folder}/iMF-XL-2.pth")
        source = ["--release-table", "--ckpt-path", folder, "--decoder", self.vae, "--num-images", "20"]
        command = self.command("table", "--fid-ref", self.reference, source=source)
        out, _ = self.run_ok(command)
        table = out[out.index("The release's table (FID-50k, guidance and steps as released), and what"):]
        self.assertEqual(table.count("(not comparable)"), 2)
        self.assertEqual(table.count("   -\n"), 9)  # B, M and L, and pMF's six
        for name, steps in rows:
            r = self.results(f"table/{name}_{steps}nfe")
            self.assertEqual(r["settings"]["steps"], steps)
            self.assertIn(f"{r['fid']:.2f} / {r['inception_score']['mean']:.1f}", table)
        self.assertEqual([self.results(f"table/{n}_{s}nfe")["settings"][key] for n, s in rows
                          for key in ("omega", "t_min", "t_max")],
                         [8, 0.42, 0.62, 4, 0.36, 0.64])
        with open(self.path("table/table.txt")) as f:
            self.assertEqual(f.read(), table)
        self.assertTrue(os.path.exists(self.path("table/table.html")))
        self.refused("sets models, guidance and steps itself", command + ["--omega", "2"], 2)
        self.refused("is no folder that holds iMF-B-2.pth", self.command("bad", "--fid-ref", self.reference, source=[
            "--release-table", "--ckpt-path", self.vae, "--decoder", self.vae]), 2)

    def test_9_published_sizes(self):
        """The golden MiT in torch's format, 256 x 256 pictures and InceptionV3 of the published size."""
        if not INCEPTION_FULL:
            self.skipTest("only narrow networks in this build")
        vae = self.path("vae_tiny")
        os.mkdir(vae)
        self.synth("sd-vae", "channels=32:32:64:64,groups=16", 5, vae)
        source = ["--ckpt-path", MIT_TINY, "--decoder", vae, "--num-images", str(IMAGES)]
        flags = ("--fid-ref", self.reference)
        self.run_ok(self.command("full", *flags, source=source, inception=INCEPTION_FULL))
        self.run_ok(self.command("full2", *flags, "--threads", "1", source=source, inception=INCEPTION_FULL,
                                 ranks=2 if MPIRUN else 0))
        one, two = self.results("full"), self.results("full2")
        self.assertEqual(one["inception"]["narrow"], 1)
        self.assertGreater(one["inception"]["gflop_per_picture"], 11)
        for name in ("fid", "inception_score"):
            self.assertEqual(one[name], two[name])


if __name__ == "__main__":
    unittest.main(verbosity=2)

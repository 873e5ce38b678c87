"""What another program reads in the pictures: exiftool, which knows PNG, JPEG and WebP."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))

from imfd_server import Server  # noqa: E402

ASK = {"class": 207, "seed": 42, "steps": 1, "omega": 8, "t_min": 0.4, "t_max": 0.6}
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def exiftool(path, *flags):
    out = subprocess.run(["exiftool", "-json", "-G0", "-n", *flags, path], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)[0]


class Metadata(unittest.TestCase):
    def test_every_format(self):
        with tempfile.TemporaryDirectory() as folder, Server() as server:
            version = "imfd " + server.get("/version").json()["version"]
            for suffix in ("png", "jpg", "webp"):
                path = os.path.join(folder, "picture." + suffix)
                name = "jpeg" if suffix == "jpg" else suffix
                for embed in (True, False):
                    with open(path, "wb") as f:
                        f.write(server.generate(dict(ASK, embed_metadata=embed), accept="image/" + name).body)
                    tags = exiftool(path, "-warning", "-error", "-all")
                    with self.subTest(suffix=suffix, embed=embed):
                        self.assertNotIn("ExifTool:Warning", tags)
                        self.assertNotIn("ExifTool:Error", tags)
                        self.assertEqual((tags["File:MIMEType"], tags["Composite:ImageSize"]),
                                         ("image/" + name, "256 256"))
                        self.assertEqual(tags.get("XMP:DigitalSourceType"), SOURCE if embed else None)
                        if not embed:
                            continue
                        self.assertEqual(tags["XMP:CreatorTool"], version)
                        text = tags["PNG:Parameters" if suffix == "png" else "EXIF:UserComment"]
                        self.assertTrue(text.startswith("golden retriever"), text)
                        self.assertIn("Seed: 42, Size: 256x256, Model: fake, Version: " + version, text)
                        request = tags["PNG:Imfd" if suffix == "png" else "EXIF:ImageDescription"]
                        request = json.loads(request) if isinstance(request, str) else request
                        self.assertEqual({k: request[k] for k in ASK}, ASK)

    def test_sample(self):
        """The command line's pictures say the same."""
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([os.environ["IMFD"], "sample", "--demo", "--classes", "1,2", "--seeds", "3", "-o",
                            os.path.join(folder, "grid.png"), "--save-images", folder], check=True,
                           capture_output=True, env=dict(os.environ, OMP_WAIT_POLICY="passive"))
            self.assertEqual(len(os.listdir(folder)), 3)
            for name in os.listdir(folder):
                self.assertEqual(exiftool(os.path.join(folder, name))["XMP:DigitalSourceType"], SOURCE)


if __name__ == "__main__":
    unittest.main()

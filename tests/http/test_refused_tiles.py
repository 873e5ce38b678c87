"""A CPU with AMX under a kernel that refuses it: the next best kernels, said in one line of the log, with the pictures
and the fingerprint that they have where they are asked for. REFUSE_TILES names the program that refuses."""
import errno
import os
import subprocess
import tempfile
import unittest

from imfd_server import IMFD, Server

REFUSE = os.environ["REFUSE_TILES"]
TINY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden", "mit_tiny", "mit_tiny.pth")
REFUSED = "; the system refuses AMX"


def has_amx():
    with open("/proc/cpuinfo", encoding="ascii") as f:
        return "amx_bf16" in f.read().split()


def refuses():
    return subprocess.run([REFUSE, str(errno.EPERM), "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0


@unittest.skipUnless(has_amx(), "no AMX here")
@unittest.skipUnless(refuses(), "no system call can be refused here")
class Refused(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.decoder = os.path.join(folder.name, "taesd.safetensors")
        subprocess.run([IMFD, "synth", "--quiet", "--dtype", "bf16", "taesd", "-o", cls.decoder], check=True)

    def run_server(self, prefix=(), **env):
        """(the device's line of the log, fingerprint, a picture) of a server that starts so"""
        server = Server("--models", "id=tiny,checkpoint=%s,decoder=%s" % (TINY, self.decoder),
                        "--precision", "bf16", device="cpu", prefix=prefix, env=env)
        self.addCleanup(server.process.wait)
        self.addCleanup(server.process.kill)
        reply = server.generate({"class": 3, "seed": 1}, accept="image/png")
        self.assertEqual(reply.status, 200, reply.body)
        lines = [line for line in server.log().splitlines() if " device cpu in bf16: " in line]
        self.assertEqual(len(lines), 1, server.log())
        server.process.terminate()
        self.assertEqual(server.process.wait(60), 0)
        return lines[0], reply.headers["X-Imfd-Fingerprint"], reply.body

    def test_refused(self):
        tiles = self.run_server()
        held_back = self.run_server(ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16")
        self.assertIn("products on AMX", tiles[0])
        self.assertIn("products on AVX512-BF16", held_back[0])
        self.assertNotIn(REFUSED, tiles[0])
        self.assertNotIn(REFUSED, held_back[0])
        self.assertNotEqual(tiles[1], held_back[1])
        for error in errno.EPERM, errno.ENOSYS, errno.EINVAL:
            refused = self.run_server((REFUSE, str(error)))
            self.assertIn("products on AVX512-BF16", refused[0])
            self.assertEqual(refused[0].count(REFUSED), 1)
            self.assertEqual(refused[1:], held_back[1:])


if __name__ == "__main__":
    unittest.main()

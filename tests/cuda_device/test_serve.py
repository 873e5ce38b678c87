"""imfd serve --device cuda:0,1 on the emulator: two GPUs behind one queue, then one that is sick."""
import json
import os
import subprocess
import tempfile
import unittest

from imfd_server import Server

EMULATOR = {k: os.environ[k] for k in ("IMFD_CUDA_DRIVER", "IMFD_CUDA_MODULE")}


class Devices(unittest.TestCase):
    def start(self, device="cuda:0,1", **env):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        weights = os.path.join(self.folder.name, "pixels.safetensors")
        subprocess.run([os.environ["IMFD"], "synth", "MiT", "--output", weights, "--config",
                        "depth=2,shared=1,hidden=64,classes=10,channels=3"],
                       check=True, capture_output=True)
        config = os.path.join(self.folder.name, "imfd.json")
        with open(config, "w", encoding="utf-8") as f:
            json.dump({"models": [{"id": "tiny", "checkpoint": weights, "decoder": "none"}]}, f)
        server = Server("--config", config, "--max-batch", "2", "--decode-batch", "1",
                        device=device,
                        env=dict(EMULATOR, IMF_EMU_FEW_RUNS="1", **{"IMF_EMU_DEVICES": "2", **env}))
        self.addCleanup(server.stop)
        return server

    def test_two(self):
        server = self.start()
        self.assertIn("device cuda:0 in bf16: Emulated H100", server.log())
        self.assertEqual(server.get("/readyz").json(), {"status": "ready"})
        metrics = server.get("/metrics").body.decode()
        self.assertIn('imfd_device_up{device="cuda:0"} 1\n', metrics)
        self.assertIn('imfd_device_up{device="cuda:1"} 1\n', metrics)
        self.assertEqual(server.get("/v1/images/tiny/3/1.png").status, 200)

    def test_one_is_sick(self):
        server = self.start(IMF_EMU_SICK_DEVICE="1")
        self.assertRegex(server.log(), r"device cuda:1 is lost, 1 of 2 go on: .*cuda:1")
        reply = server.get("/readyz")
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.json(), {"status": "ready",
                                        "devices": {"cuda:0": "ready", "cuda:1": "sick"}})
        metrics = server.get("/metrics").body.decode()
        self.assertIn('imfd_device_up{device="cuda:0"} 1\n', metrics)
        self.assertIn('imfd_device_up{device="cuda:1"} 0\n', metrics)

    def test_none(self):
        """The same program on a machine without a GPU says what it took, and why."""
        log = self.start(device="auto", IMF_EMU_DEVICES="0").log()
        self.assertRegex(log, r"device cpu in \w+: .*; the NVIDIA driver finds no GPU")


if __name__ == "__main__":
    unittest.main()

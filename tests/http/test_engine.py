"""The server with the real CPU engine and a B-sized model (synthetic weights): back after kill -9, and
alive while the engine takes every core."""
import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from imfd_server import IMFD, SLOW, Server, in_threads


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


class Engine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.model, cls.decoder = (os.path.join(cls.folder.name, n) for n in ("B.safetensors", "taesd.safetensors"))
        for name, path in (("MiT_B_2", cls.model), ("taesd", cls.decoder)):
            subprocess.run([IMFD, "synth", "--quiet", "--dtype", "bf16", name, "-o", path], check=True)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def serve(self, *flags, listen="127.0.0.1:0"):
        return Server("--models", "id=B,checkpoint=%s,decoder=%s" % (self.model, self.decoder), *flags,
                      device="cpu", listen=listen)

    def test_batches_and_threads(self):
        """B's widths, by real requests: five pictures one by one, three and five at once, with one to three threads
        are the same five files, or the tag tells them apart (float32's Winograd goes with the threads)."""
        for precision in ("bf16", "fp32"):
            files = {}  # by tag
            for threads in (1, 2, 3):
                flags = ("--precision", precision, "--threads", str(threads), "--max-batch", "5", "--cache-bytes", "0")
                try:
                    server = self.serve(*flags)
                except AssertionError:
                    self.assertEqual(precision, "bf16", "float32 is everywhere")
                    break
                with server:
                    def at_once(n):
                        parts = server.generate({"model": "B", "class": 7, "seed": 0, "n": n, "embed_metadata": True})
                        return [base64.b64decode(d["b64_json"]) for d in parts.json()["data"]]
                    single = [server.get("/v1/images/B/7/%d.png" % seed) for seed in range(5)]
                    for n in (3, 5):
                        self.assertEqual(at_once(n), [r.body for r in single[:n]], (precision, threads, n))
                    for r in single:
                        self.assertEqual(files.setdefault(r.headers["ETag"], r.body), r.body, (precision, threads))
            if precision == "bf16":
                self.assertIn(len(files), (0, 5))

    def test_kill_and_restart(self):
        """kill -9 under load; the same port and the socket file that was left behind serve again, and
        the first picture is there within 3 s of the start."""
        path = os.path.join(self.folder.name, "imfd.sock")
        before = self.serve(listen="127.0.0.1:0,unix:" + path)
        working = before.connect()
        ask = json.dumps({"class": 207, "seed": 1, "n": 32}).encode()
        working.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                        b"Content-Length: %d\r\n\r\n%s" % (len(ask), ask))
        before.wait_metric("imfd_requests_running", 1)
        picture = before.get("/v1/images/B/207/42.png").body
        before.process.kill()
        before.process.wait()
        working.close()
        self.assertTrue(os.path.exists(path), "kill -9 leaves the socket file")
        start = time.monotonic()
        with self.serve(listen="127.0.0.1:%d,unix:%s" % (before.port, path)) as again:
            ready = time.monotonic() - start
            reply = again.get("/v1/images/B/207/42.png")
            took = time.monotonic() - start
            self.assertEqual((reply.status, reply.body), (200, picture))
            connection = Unix(path)
            connection.request("GET", "/v1/images/B/207/42.png")
            self.assertEqual(connection.getresponse().read(), picture)
            connection.close()
        print("ready %.2f s after the start, first picture after %.2f s; " % (ready, took), end="", file=sys.stderr)

    def test_health_while_saturated(self):
        """With every core in the engine and the queue full, health still answers; how fast is printed."""
        times, refused, stop = [], [0], threading.Event()
        with self.serve("--max-queue", "32", "--max-n", "32", "--cache-bytes", "0") as server:
            def flood(k):
                connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
                for i in range(100000):
                    if stop.is_set():
                        break
                    connection.request("POST", "/v1/generate", json.dumps({"class": k, "seed": i * 100, "n": 4}),
                                       {"Content-Type": "application/json"})
                    reply = connection.getresponse()
                    reply.read()
                    self.assertIn(reply.status, (200, 503))
                    if reply.status == 503:
                        refused[0] += 1
                        self.assertGreater(int(reply.headers["Retry-After"]), 0)
                        stop.wait(0.1)
                connection.close()

            def watch():
                connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
                for _ in range(150):
                    for address in ("/livez", "/readyz", "/health"):
                        start = time.monotonic()
                        connection.request("GET", address)
                        reply = connection.getresponse()
                        reply.read()
                        times.append(time.monotonic() - start)
                        self.assertEqual(reply.status, 200)
                    time.sleep(0.01)
                connection.close()
                stop.set()

            in_threads([watch] + [lambda k=k: flood(k) for k in range(12)])
            busy = server.metric("imfd_engine_busy_seconds_total")
        times.sort()
        at = lambda share: times[int(share * (len(times) - 1))] * 1e3
        print("health: %d replies, p50 %.1f, p99 %.1f, slowest %.1f ms; engine busy %.1f s, %d refused; "
              % (len(times), at(0.5), at(0.99), at(1), busy, refused[0]), end="", file=sys.stderr)
        self.assertGreater(busy, 0)
        self.assertGreater(refused[0], 0)


if __name__ == "__main__":
    unittest.main()

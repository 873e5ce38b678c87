"""Memory that is refused: the n-th allocation fails, for every n, alone and with all that follow. At the start: a
sentence or a service. In each kind of request: its reply or 503, or a stream that had begun is cut off; never silence,
and the server serves the next one. FAIL_NTH_LIBRARY names the library that does it, fail_nth.c."""
import collections
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

from imfd_server import IMFD, Server, clean_environment, in_threads, read_reply

MOST = 1000  # allocations failed one by one, in each kind of request
KEY = "aaaaaaaaaaaaaaaaaaaaaaaa"


class Control:
    """What the server's allocations look at."""

    def __init__(self):
        self.file = tempfile.NamedTemporaryFile()
        self.file.write(bytes(4096))
        self.file.flush()
        self.map = mmap.mmap(self.file.fileno(), 4096)
        self.keys = tempfile.NamedTemporaryFile("w")
        self.keys.write("alice %s\n" % KEY)
        self.keys.flush()
        self.environment = {"LD_PRELOAD": os.environ["FAIL_NTH_LIBRARY"], "FAIL_NTH": self.file.name}

    def arm(self, nth, on=False):
        """The nth allocation from now on fails; on: and all after it."""
        self.map[0:128] = struct.pack("<qqq", nth, on, 0) + bytes(104)

    def disarm(self):
        """Whether an allocation failed, and where: for addr2line."""
        self.map[0:8] = bytes(8)
        return struct.unpack("<q", self.map[16:24])[0] > 0, self.map[24:128].split(b"\0")[0].decode()


class Start(unittest.TestCase):
    def start(self, failing, nth, on):
        """One life. True when an allocation failed in it."""
        failing.arm(nth, on)
        path = os.path.join(self.folder, "%d.%d" % (nth, on))
        process = subprocess.Popen(
            [IMFD, "serve", "--device", "fake:size=16", "--listen", "unix:" + path, "--api-keys-file",
             failing.keys.name, "--rate-limit", "100000", "--drain-timeout", "20"], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=clean_environment(**failing.environment))
        ready = self.wait_ready(process, path, failing)
        failed, where = failing.disarm()
        if ready:
            process.send_signal(signal.SIGTERM)
        elif ready is None:
            process.kill()
        said = process.communicate()[1]
        with self.subTest(nth=nth, on=on, where=where):
            if ready:
                self.assertEqual(process.returncode, 0, said)
            else:
                self.assertIn(process.returncode, (1, 2), said)
                self.assertIn("memory", said)
        return failed

    def wait_ready(self, process, path, failing):
        """Whether it is, when it is or has ended; None when it hangs. Memory comes back after a while."""
        for turn in range(1000):
            if process.poll() is not None:
                return False
            if turn == 30:
                failing.disarm()
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.settimeout(1)
                    s.connect(path)
                    s.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if s.recv(100).startswith(b"HTTP/1.1 200"):
                        return True
            except OSError:
                pass
            time.sleep(0.01)
        return None

    def every(self, on, first, step):
        failing = Control()
        for nth in range(first, MOST + 1, step):
            if not self.start(failing, nth, on):
                break

    def test_every_allocation(self):
        with tempfile.TemporaryDirectory() as self.folder:
            in_threads([lambda on=on, first=first: self.every(on, first, 2)
                        for on in (False, True) for first in (1, 2)])


def body(value, accept="application/json", path="/v1/generate"):
    data = json.dumps(value).encode() if not isinstance(value, bytes) else value
    return ("POST", path, "Accept: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            % (accept, len(data)), data)


# Each gets a fresh seed.
REQUESTS = {
    "json": lambda s: body({"class": 1, "seed": s}),
    "json of 20": lambda s: body({"class": 1, "n": 20, "seed": s}),
    "png": lambda s: body({"class": 1, "seed": s}, "image/png"),
    "png without text": lambda s: body({"class": 1, "seed": s, "embed_metadata": False}, "image/png"),
    "multipart": lambda s: body({"class": 1, "n": 3, "seed": s}, "multipart/mixed"),
    "events": lambda s: body({"class": 1, "n": 3, "seed": s}, "text/event-stream"),
    "npy": lambda s: body({"class": 1, "n": 3, "seed": s}, "application/x-npy"),
    "lists": lambda s: body({"classes": ["tench", 2, "random"], "seeds": [s, s + 1, s + 2], "steps": 2}),
    "openai": lambda s: body({"prompt": "tench", "n": 2, "seed": s}, path="/v1/images/generations"),
    "openai url": lambda s: body({"prompt": "tench", "n": 9, "response_format": "url"}, path="/v1/images/generations"),
    "openai events": lambda s: body({"prompt": "tench", "stream": True, "seed": s}, path="/v1/images/generations"),
    "resource": lambda s: ("GET", "/v1/images/fake/2/%d.png" % s, "", b""),
    "cached": lambda s: ("GET", "/v1/images/fake/2/5.png", "", b""),
    "not modified": lambda s: ("GET", "/v1/images/fake/2/5.png", "If-None-Match: *\r\n", b""),
    "head": lambda s: ("HEAD", "/v1/images/fake/2/%d.png" % s, "", b""),
    "livez": lambda s: ("GET", "/livez", "", b""),
    "metrics": lambda s: ("GET", "/metrics", "", b""),
    "classes": lambda s: ("GET", "/v1/classes?q=dog", "", b""),
    "models": lambda s: ("GET", "/v1/models", "", b""),
    "page": lambda s: ("GET", "/", "", b""),
    "gzipped": lambda s: ("GET", "/openapi.json", "Accept-Encoding: gzip\r\n", b""),
    "joined lists": lambda s: ("GET", "/livez", "Accept: a/b\r\nAccept: c/d\r\n", b""),
    "404": lambda s: ("GET", "/nope", "", b""),
    "400": lambda s: body(b'{"class":'),
    "bad framing": lambda s: ("GET", "/livez", "A B: c\r\n", b""),
    "options": lambda s: ("OPTIONS", "/v1/generate", "", b""),
    "large body": lambda s: body(b" " * 60000 + b'{"class":"zzz"}'),
}

# Their head leaves before all of them has been made: it may be too late for 503.
STREAMS = ("json of 20", "multipart", "events", "npy", "lists", "openai", "openai events")


class Requests(unittest.TestCase):
    def start(self):
        self.control.arm(0)
        return Server("--api-keys-file", self.control.keys.name, "--rate-limit", "1000000", "--max-per-address", "100",
                      "--cache-bytes", "2M", env=self.control.environment)

    def send(self, server, request):
        """The reply; None when it began with 200 and was cut off, which no client takes for success."""
        method, target, fields, data = request
        with server.connect(20) as s:
            s.sendall(("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\n%s\r\n"
                       % (method, target, KEY, fields)).encode() + data)
            stream = s.makefile("rb")
            status = stream.peek(12)[:12]
            try:
                return read_reply(stream, head=method == "HEAD")
            except (EOFError, ConnectionError, ValueError):
                self.assertEqual(status, b"HTTP/1.1 200", "cut off")
                return None

    def turns(self):
        """(n, on) for every n, until self.rest says that no allocation was left to fail."""
        for on in (False, True):
            self.rest = True
            for n in range(1, MOST + 1):
                if self.rest:
                    yield n, on

    def test_every_allocation(self):
        self.control = Control()
        outcomes, seed = collections.Counter(), 1000
        server = self.start()
        try:
            for name, make in REQUESTS.items():
                expected = self.send(server, make(seed)).status
                for n, on in self.turns():
                    seed += 100
                    reply = None
                    self.control.arm(n, on)
                    with self.subTest(name, n=n, on=on):
                        try:
                            reply = self.send(server, make(seed))
                        finally:
                            failed, where = self.control.disarm()
                    with self.subTest(name, n=n, on=on, where=where):
                        self.assertIsNone(server.process.poll(), "the server died")
                        if reply is None:
                            self.assertIn(name, STREAMS)
                        else:
                            self.assertIn(reply.status, (expected, 503))
                            self.assertEqual(reply.headers.get("x-content-type-options"), "nosniff")
                            if reply.status == 200:
                                self.assertIn("content-type", reply.headers)
                            if name in ("resource", "cached") and reply.status == 200:
                                self.assertIn("cache-control", reply.headers)
                        outcomes[reply.status if reply else "cut"] += failed
                        after = self.send(server, REQUESTS["json"](seed + 50))
                        self.assertEqual(after and after.status, 200, "the next request")
                    if server.process.poll() is not None:
                        server = self.start()
                    if not failed:
                        self.rest = False
            self.assertGreater(sum(outcomes.values()), 300)
            print("%d allocations failed: %s" % (sum(outcomes.values()), dict(outcomes)), end=" ", flush=True)
            self.settled(server)
        finally:
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.wait_exit(), 0)

    def settled(self, server):
        """Nothing is left of all that."""
        metrics = ("GET", "/metrics", "", b"")
        for _ in range(200):
            values = collections.Counter()
            for line in self.send(server, metrics).body.decode().splitlines():
                if not line.startswith("#"):
                    name, value = line.rsplit(" ", 1)
                    values[name.partition("{")[0]] += float(value)
            left = [values["imfd_requests_running"], values["imfd_queue_images"],
                    values["imfd_accepted_images_total"] - values["imfd_ended_images_total"]]
            if left == [0, 0, 0]:
                return
            time.sleep(0.05)
        self.fail("left over: running, queued, unaccounted: %r" % left)


if __name__ == "__main__":
    unittest.main()

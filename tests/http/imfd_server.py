"""Starts a real imfd with the fake engine on a free port, and talks to it.

Every server is stopped with SIGTERM at the end of its test class and must exit with 0 and without a
word from a sanitizer. Only Python's standard library is used."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

IMFD = os.environ.get("IMFD", "build/dev/server/imfd")
# Sanitizers and a busy machine slow everything down; time limits of tests are multiplied by this.
SLOW = float(os.environ.get("HTTP_TEST_SLOW", "1"))
REPORTS = ("AddressSanitizer", "runtime error:", "ThreadSanitizer", "LeakSanitizer")


def clean_environment(**more):
    """This process's, without settings of imfd that happen to be in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("IMFD_")}
    return dict(kept, OMP_WAIT_POLICY="passive", **more)


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def error(self):
        """The error object, whose shape is part of the contract."""
        error = self.json()["error"]
        assert sorted(error) == ["code", "message", "param", "type"], error
        assert isinstance(error["message"], str) and error["message"], error
        return error


class Server:
    def __init__(self, *flags, device="fake", listen="127.0.0.1:0", wait=True, env=None, prefix=()):
        self.log_file = tempfile.NamedTemporaryFile("w+", suffix=".log")
        command = [*prefix, IMFD, "serve", "--device", device]
        if listen is not None:
            command += ["--listen", listen]
        environment = clean_environment(**(env or {}))
        self.process = subprocess.Popen(
            command + list(flags), stdin=subprocess.DEVNULL, stdout=self.log_file,
            stderr=self.log_file, env=environment)
        try:
            self.wait_log(r"listening on", 30)
            if wait:
                self.wait_log(r"info  ready\n|\"message\":\"ready\"", 30)
        except BaseException:
            self.process.kill()
            raise
        self.addresses = re.findall(r"(?:listening|metrics) on (?:http://)?(\S+?)[\"\n]", self.log())
        match = re.match(r"(\[.*\]|[\d.]+):(\d+)", self.addresses[0])
        self.host, self.port = (match[1].strip("[]"), int(match[2])) if match else (None, None)

    def log(self):
        with open(self.log_file.name, encoding="utf-8", errors="replace") as f:
            return f.read()

    def wait_log(self, pattern, seconds=10):
        """Waits for a line and returns the match."""
        deadline = time.monotonic() + seconds * SLOW
        while True:
            match = re.search(pattern, self.log())
            if match:
                return match
            if self.process.poll() is not None:
                raise AssertionError("imfd exited with %s:\n%s" % (self.process.returncode, self.log()))
            if time.monotonic() > deadline:
                raise AssertionError("no %r in the log:\n%s" % (pattern, self.log()[-3000:]))
            time.sleep(0.01)

    def connect(self, timeout=60):
        s = socket.create_connection((self.host, self.port), timeout=timeout * SLOW)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def request(self, method, path, body=None, headers=None, timeout=60, port=None):
        connection = http.client.HTTPConnection(self.host, port or self.port, timeout=timeout * SLOW)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.request("GET", path, headers=_names(headers))

    def post(self, path, value, **headers):
        names = {"Content-Type": "application/json"}
        names.update(_names(headers))
        body = value if isinstance(value, (bytes, str)) else json.dumps(value)
        return self.request("POST", path, body=body, headers=names)

    def generate(self, value, **headers):
        return self.post("/v1/generate", value, **headers)

    def metric(self, name, **labels):
        """Sum of the samples of a metric that have these labels."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            match = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
            if match and match[1] == name:
                have = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if all(have.get(k) == v for k, v in labels.items()):
                    total += float(match[3])
        return total

    def wait_metric(self, name, value, seconds=10, **labels):
        deadline = time.monotonic() + seconds * SLOW
        while True:
            now = self.metric(name, **labels)
            if now == value:
                return
            if time.monotonic() > deadline:
                raise AssertionError("%s%r is %s, not %s" % (name, labels, now, value))
            time.sleep(0.02)

    def memory(self):
        """Resident bytes."""
        with open("/proc/%d/statm" % self.process.pid) as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.process.pid))

    def wait_exit(self, seconds=30):
        return self.process.wait(seconds * SLOW)

    def check_log(self):
        text = self.log()
        for word in REPORTS:
            if word in text:
                raise AssertionError("a sanitizer reports:\n" + text[-20000:])

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.wait_exit()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("imfd does not stop:\n" + self.log()[-5000:])
        self.check_log()
        if code != 0:
            raise AssertionError("imfd exited with %d:\n%s" % (code, self.log()[-5000:]))

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.stop()
        else:
            self.process.kill()
            self.process.wait()


def _names(headers):
    """Keyword arguments to header names: if_none_match -> If-None-Match."""
    return {k.replace("_", "-").title(): v for k, v in headers.items()}


def read_reply(stream, head=False):
    """One reply off a file made of a socket, or None at its end."""
    line = stream.readline()
    if not line:
        return None
    status = int(line.split()[1])
    headers = {}
    while True:
        line = stream.readline().strip()
        if not line:
            break
        name, _, value = line.partition(b":")
        headers[name.decode().lower()] = value.strip().decode()
    if head or status in (100, 204, 304):
        return Reply(status, headers, b"")
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            size = int(stream.readline(), 16)
            piece = stream.read(size)
            if len(piece) < size:
                raise EOFError("cut inside a chunk")
            body += piece
            stream.readline()
            if size == 0:
                return Reply(status, headers, body)
    if "content-length" in headers:
        size = int(headers["content-length"])
        body = stream.read(size)
        if len(body) < size:
            raise EOFError("cut inside the body")
        return Reply(status, headers, body)
    return Reply(status, headers, stream.read())


def post_bytes(value, extra="", path="/v1/generate"):
    """A POST as it goes over the wire."""
    body = json.dumps(value).encode()
    return ("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
            % (path, len(body), extra)).encode() + body


class ServerTest(unittest.TestCase):
    """A test class with one server; `flags`, `device` and `environment` are the class's."""
    flags = ()
    device = "fake"
    environment = {}

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.flags, device=cls.device, env=cls.environment)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()


def in_threads(functions):
    """Runs functions at the same time; returns their results, raises the first exception."""
    results, errors = [None] * len(functions), []

    def run(i):
        try:
            results[i] = functions[i]()
        except BaseException as e:  # pylint: disable=broad-except
            errors.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return results

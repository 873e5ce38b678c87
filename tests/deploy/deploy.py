"""What the deployment tests share: replicas of imfd that can be killed and started again, a proxy
made of a file of conf/, and clients that keep count. Only Python's standard library is used."""
import collections
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "http"))
from imfd_server import IMFD, SLOW, clean_environment  # noqa: E402

SKIP = 77


def need(*tools):
    """Leaves with ctest's code for "skipped" when a tool is missing."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for tool in tools:
        if shutil.which(tool) is None:
            print("skipped: %s is not installed" % tool)
            sys.exit(SKIP)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, seconds=20):
    deadline = time.monotonic() + seconds * SLOW
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain for " + what)
        time.sleep(0.02)


class Replica:
    """One imfd on an address of its own, kept over restarts."""

    def __init__(self, folder, number, listen, device, *flags):
        self.listen, self.device, self.flags = listen, device, flags
        self.log_path = os.path.join(folder, "imfd%d.log" % number)
        self.metrics_port = free_port()
        self.process = None
        self.start()

    def start(self, wait=True):
        self.log_file = open(self.log_path, "a")
        self.process = subprocess.Popen(
            [IMFD, "serve", "--device", self.device, "--listen", self.listen, "--log-level", "info",
             "--metrics-listen", "127.0.0.1:%d" % self.metrics_port, *self.flags],
            stdin=subprocess.DEVNULL, stdout=self.log_file, stderr=self.log_file,
            env=clean_environment())
        if wait:
            wait_for("a replica to be ready", self.ready)

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError("imfd exited:\n" + self.log())
        try:
            return "\nimfd_ready 1\n" in self.metrics_text()  # not the HELP line
        except OSError:
            return False

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def metrics_text(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def metric(self, name, **labels):
        total = 0.0
        for line in self.metrics_text().splitlines():
            match = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
            if match and match[1] == name:
                have = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if all(have.get(k) == v for k, v in labels.items()):
                    total += float(match[3])
        return total

    def kill(self):
        self.process.kill()
        self.process.wait()

    def drain(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(40 * SLOW)
        if code != 0:
            raise AssertionError("imfd exited with %d:\n%s" % (code, self.log()[-3000:]))


class Proxy:
    """A proxy in the foreground, with a file of conf/ whose addresses and paths are the test's."""

    def __init__(self, command, log_path):
        self.log_path = log_path
        with open(log_path, "a") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def edit(text, *changes):
    """Regular replacements, each of which has to meet something: a test must not pass by a change
    that found nothing."""
    for pattern, replacement in changes:
        text, n = re.subn(pattern, replacement, text, flags=re.M)
        if n == 0:
            raise AssertionError("nothing matches %r" % pattern)
    return text


def make_certificate(folder):
    key, crt, pem = (os.path.join(folder, n) for n in ("imfd.key", "imfd.crt", "imfd.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                    "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", key, "-out", crt], check=True, capture_output=True)
    with open(pem, "w") as out:
        for part in (crt, key):
            with open(part) as f:
                out.write(f.read())
    os.chmod(pem, 0o600)
    return key, crt, pem


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    def json(self):
        return json.loads(self.body)


class Site:
    """Requests to the proxy."""

    def __init__(self, port, tls_port, certificate):
        self.port, self.tls_port = port, tls_port
        self.tls = ssl.create_default_context(cafile=certificate)

    def connect(self, tls=False):
        if tls:
            return http.client.HTTPSConnection("localhost", self.tls_port, timeout=60, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def request(self, method, path, value=None, tls=False, **headers):
        names = {k.replace("_", "-").title(): v for k, v in headers.items()}
        body = None
        if value is not None:
            body = value if isinstance(value, (bytes, str)) else json.dumps(value)
            names.setdefault("Content-Type", "application/json")
        connection = self.connect(tls)
        try:
            connection.request(method, path, body=body, headers=names)
            return Answer(connection.getresponse())
        finally:
            connection.close()


class Load:
    """Clients that ask without pause until told to stop, and count what became of each request."""

    def __init__(self, site, clients):
        self.site, self.results, self.errors = site, collections.Counter(), []
        self.over, self.lock = threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self.client, args=(i,)) for i in range(clients)]
        for t in self.threads:
            t.start()

    def client(self, i):
        seed, connection = i * 1000000, None
        while not self.over.is_set():
            seed += 1
            try:
                if connection is None:
                    connection = self.site.connect()
                connection.request("POST", "/v1/generate", json.dumps({"class": 207, "seed": seed}),
                                   {"Content-Type": "application/json", "Accept": "image/png"})
                answer = Answer(connection.getresponse())
                result = answer.status
                if result == 200 and answer.body[:8] != b"\x89PNG\r\n\x1a\n":
                    result = "no picture"
                detail = answer.body[:200]
                if answer.headers.get("Connection", "").lower() == "close":
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as e:
                result, detail = type(e).__name__, str(e)
                connection.close()
                connection = None
            with self.lock:
                self.results[result] += 1
                if result != 200:
                    self.errors.append((time.monotonic(), result, detail))

    def done(self):
        with self.lock:
            return sum(self.results.values())

    def more(self, n):
        """Waits until n more requests are over."""
        wanted = self.done() + n
        wait_for("%d more requests" % n, lambda: self.done() >= wanted, 60)

    def stop(self):
        self.over.set()
        for t in self.threads:
            t.join()
        return self.results

"""The log and the signals: what stands in the way of the log does not stop the service, and what is
lost is counted; no signal but those that ask for it ends the process."""
import fcntl
import os
import re
import resource
import signal
import socket
import subprocess
import tempfile
import unittest

from imfd_server import IMFD, REPORTS, Server, clean_environment

LOST = "imfd_log_lines_lost_total"
LONG = "/nothing?" + "a" * 1900  # a request whose line is long


class LoggedServer(Server):
    """A server whose stderr is a pipe that this test reads, or does not."""

    def __init__(self, *flags, prepare=None, stderr=subprocess.PIPE):
        self.process = subprocess.Popen(
            [IMFD, "serve", "--device", "fake", "--listen", "127.0.0.1:0", *flags],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
            env=clean_environment(), preexec_fn=prepare)
        self.lines = []
        self.host = "127.0.0.1"

    def read_until(self, word):
        """Reads the pipe up to a line with this word."""
        while not self.lines or word not in self.lines[-1]:
            line = self.process.stderr.readline().decode()
            if not line:
                raise AssertionError("the log ended:\n" + "".join(self.lines[-20:]))
            self.lines.append(line)
        match = re.search(r"listening on http://127.0.0.1:(\d+)", "".join(self.lines))
        self.port = int(match[1])
        return self.lines[-1]

    def log(self):
        return "".join(self.lines)

    def end(self):
        """SIGTERM, and all that is left in the pipe."""
        self.process.send_signal(signal.SIGTERM)
        self.lines += [line.decode() for line in self.process.stderr]
        code = self.process.wait(60)
        for word in REPORTS:
            assert word not in self.log(), self.log()[-20000:]
        return code


class Log(unittest.TestCase):
    def test_a_pipe_nobody_reads(self):
        server = LoggedServer()
        try:
            server.read_until(" ready")
            fcntl.fcntl(server.process.stderr, fcntl.F_SETPIPE_SZ, 4096)
            sent = 0
            while server.metric(LOST) == 0:
                for _ in range(100):
                    self.assertEqual(server.get(LONG).status, 404)
                    sent += 1
                self.assertLess(sent, 20000)
            self.assertEqual(server.generate({"class": 1}).status, 200)
            # Read again, it goes on and says what is missing.
            lost = int(server.metric(LOST))
            server.get("/version")
            before = len(server.lines)
            line = ""
            while "have been lost" not in line:
                line = server.process.stderr.readline().decode()
                server.lines.append(line)
                server.get("/livez")
            self.assertGreaterEqual(int(re.search(r"(\d+) lines of this log have been lost", line)[1]), lost)
            self.assertIn(" warn ", line)
            self.assertGreater(len(server.lines), before)
        finally:
            code = server.end()
        self.assertEqual(code, 0)
        for line in server.lines:  # whole lines only
            self.assertRegex(line, r"^\d{4}-\d\d-\d\dT[\d:.]+Z (debug|info |warn |error) ")

    def test_leaving_while_nobody_reads(self):
        server = LoggedServer()
        server.read_until(" ready")
        fcntl.fcntl(server.process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        for _ in range(20):
            server.get(LONG)
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(server.process.wait(60), 0)
        server.process.stderr.close()

    def test_a_reader_that_went_away(self):
        server = LoggedServer()
        server.read_until(" ready")
        server.process.stderr.close()
        while server.metric(LOST) == 0:
            server.get("/version")
        self.assertEqual(server.generate({"class": 1}).status, 200)
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(server.process.wait(60), 0)

    def test_a_full_disk(self):
        with LoggedFile("/dev/full") as server:
            self.assertEqual(server.generate({"class": 1}).status, 200)
            self.assertGreater(server.metric(LOST), 2)

    def test_a_limit_on_files(self):
        """RLIMIT_FSIZE: SIGXFSZ does not kill; after logrotate has been there, lines are whole again."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "imfd.log")
            with LoggedFile(path, prepare=lambda: resource.setrlimit(
                    resource.RLIMIT_FSIZE, (3000, 3000))) as server:
                for _ in range(10):
                    self.assertEqual(server.get(LONG).status, 404)
                self.assertEqual(server.generate({"class": 1}).status, 200)
                while server.metric(LOST) < 5:
                    server.get("/version")
                self.assertEqual(os.path.getsize(path), 3000)
                os.rename(path, path + ".1")
                server.process.send_signal(signal.SIGUSR1)
                while "have been lost" not in read(path):
                    server.get("/version")
            for line in read(path).splitlines():
                self.assertRegex(line, r"^\d{4}-\d\d-\d\dT[\d:.]+Z (debug|info |warn |error) ")

    def test_a_pipe_as_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "pipe")
            os.mkfifo(path)
            r = subprocess.run([IMFD, "serve", "--device", "fake", "--listen", "127.0.0.1:0",
                                "--log-file", path], capture_output=True, text=True, timeout=60,
                               env=clean_environment())
            self.assertEqual(r.returncode, 1)
            self.assertIn("nobody reads this pipe", r.stderr)


def read(path):
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


class LoggedFile(Server):
    """A server whose log cannot be relied on: its port is found out by asking the kernel."""

    def __init__(self, path, prepare=None):
        self.err = tempfile.NamedTemporaryFile("w+")
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        self.host, self.port = "127.0.0.1", probe.getsockname()[1]
        probe.close()
        self.process = subprocess.Popen(
            [IMFD, "serve", "--device", "fake", "--listen", "127.0.0.1:%d" % self.port, "--log-file", path],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.err,
            env=clean_environment(), preexec_fn=prepare)
        while True:
            try:
                if self.get("/readyz").status == 200:
                    break
            except OSError:
                assert self.process.poll() is None, self.log()

    def log(self):
        return read(self.err.name)


class Signals(unittest.TestCase):
    def test_those_that_change_nothing(self):
        with Server() as server:
            for number in (signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO,
                           signal.SIGPWR, signal.SIGSTKFLT, signal.SIGPIPE,
                           signal.SIGXFSZ, signal.SIGCHLD, signal.SIGWINCH):
                server.process.send_signal(number)
            self.assertEqual(server.generate({"class": 1}).status, 200)

    def test_those_that_open_the_log_anew(self):
        with Server() as server:
            for number, name in ((signal.SIGUSR1, "SIGUSR1"), (signal.SIGHUP, "SIGHUP")):
                server.process.send_signal(number)
                server.wait_log(name + ": log opened anew")
            self.assertEqual(server.generate({"class": 1}).status, 200)

    def test_those_that_drain(self):
        for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT"),
                             (signal.SIGQUIT, "SIGQUIT")):
            server = Server()
            server.process.send_signal(number)
            server.wait_log(name + ": draining")
            self.assertEqual(server.wait_exit(), 0)
            server.check_log()


if __name__ == "__main__":
    unittest.main()

"""imfd.service: the unit is valid and hardened, and imfd speaks systemd's two protocols: sd_notify
with the watchdog, and socket activation. No systemd has to run: the protocols are a datagram socket
and inherited descriptors."""
import http.client
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from deploy import IMFD, ROOT, SLOW, clean_environment, need

# `systemd-analyze security` counts exposure, 0 (none) to 10; docs/operations.md records it.
MOST_EXPOSURE = 1.7


class Unit(unittest.TestCase):
    def make(self, folder):
        """The unit with a program and files that exist here, as verify wants."""
        with open(os.path.join(ROOT, "conf", "imfd.service")) as f:
            text = f.read()
        self.assertIn("ExecStart=/usr/bin/imfd serve", text)
        text = text.replace("/usr/bin/imfd", os.path.abspath(IMFD))
        text = text.replace("Documentation=man:imfd(1)\n", "")
        for name, content in (("imfd.service", text),
                              ("imfd.socket", open(os.path.join(ROOT, "conf", "imfd.socket")).read())):
            with open(os.path.join(folder, name), "w") as f:
                f.write(content)

    def test_verify(self):
        with tempfile.TemporaryDirectory() as folder:
            self.make(folder)
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", folder + "/imfd.service",
                                   folder + "/imfd.socket"], capture_output=True, text=True)
            ours = [line for line in (done.stdout + done.stderr).splitlines() if "imfd" in line]
            self.assertEqual(ours, [])

    def test_exposure(self):
        with tempfile.TemporaryDirectory() as folder:
            self.make(folder)
            done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager",
                                   folder + "/imfd.service"], capture_output=True, text=True)
            match = re.search(r"Overall exposure level for imfd\.service: ([\d.]+)", done.stdout)
            self.assertIsNotNone(match, done.stdout + done.stderr)
            print("exposure", match[1])
            self.assertLessEqual(float(match[1]), MOST_EXPOSURE, done.stdout)
            with open(os.path.join(ROOT, "docs", "operations.md")) as f:
                self.assertIn("exposure level: %s" % match[1], f.read())


class Notify(unittest.TestCase):
    def run_notified(self, address, seen):
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(10 * SLOW)
        process = subprocess.Popen(
            [IMFD, "serve", "--device", "fake:load_ms=300", "--listen", "127.0.0.1:0", "--log-level",
             "warn"], env=clean_environment(NOTIFY_SOCKET=address, WATCHDOG_USEC="300000"))
        try:
            start = time.monotonic()
            while "READY=1\nSTATUS=serving" not in seen:
                seen.append(manager.recv(4096).decode())
            self.assertGreater(time.monotonic() - start, 0.25, "ready before the weights were loaded")
            beats = 0
            while beats < 5:
                beats += manager.recv(4096) == b"WATCHDOG=1"
            process.send_signal(signal.SIGTERM)
            while "STOPPING=1\nSTATUS=draining" not in seen:
                seen.append(manager.recv(4096).decode())
            self.assertEqual(process.wait(20 * SLOW), 0)
        finally:
            process.kill()
            manager.close()

    def test_path(self):
        with tempfile.TemporaryDirectory() as folder:
            self.run_notified(folder + "/notify", [])

    def test_abstract(self):
        self.run_notified("@imfd-test-%d" % os.getpid(), [])

    def test_a_hanging_loop_misses_its_beats(self):
        with tempfile.TemporaryDirectory() as folder:
            manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            manager.bind(folder + "/notify")
            manager.settimeout(10 * SLOW)
            process = subprocess.Popen(
                [IMFD, "serve", "--device", "fake", "--listen", "127.0.0.1:0", "--log-level", "warn"],
                env=clean_environment(NOTIFY_SOCKET=folder + "/notify", WATCHDOG_USEC="300000"))
            try:
                while manager.recv(4096) != b"WATCHDOG=1":
                    pass
                process.send_signal(signal.SIGSTOP)
                time.sleep(0.2)
                manager.setblocking(False)
                with self.assertRaises(BlockingIOError):
                    while True:
                        manager.recv(4096)
                time.sleep(0.5)
                with self.assertRaises(BlockingIOError):
                    manager.recv(4096)
            finally:
                process.kill()
                process.wait()
                manager.close()


def start_activated(sockets, *flags, pid=None):
    """imfd with these sockets as descriptors 3, 4, ..., as systemd starts a service."""
    def before_exec():
        for i, s in enumerate(sockets):  # out of the way first: 3.. may be one of them
            os.dup2(s.fileno(), 100 + i)
        for i in range(len(sockets)):
            os.dup2(100 + i, 3 + i, inheritable=True)
            os.close(100 + i)

    # A shell sets the variables: LISTEN_PID is known only after the fork, and exec keeps it.
    script = "LISTEN_PID=%s LISTEN_FDS=%d exec \"$@\"" % ("$$" if pid is None else pid, len(sockets))
    return subprocess.Popen(["sh", "-c", script, "sh", IMFD, "serve", "--device", "fake", "--listen",
                             "systemd", "--log-level", "info", *flags], env=clean_environment(),
                            preexec_fn=before_exec, close_fds=False, stderr=subprocess.PIPE, text=True)


class SocketActivation(unittest.TestCase):
    def test_restart_loses_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
            tcp.bind(("127.0.0.1", 0))
            tcp.listen(128)
            path = folder + "/imfd.sock"
            unix.bind(path)
            unix.listen(128)
            port, results, over = tcp.getsockname()[1], [], threading.Event()

            def client():
                while not over.is_set():
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                    try:
                        connection.request("GET", "/v1/images/fake/1/%d.png" % len(results))
                        results.append(connection.getresponse().status)
                    except (OSError, http.client.HTTPException) as e:
                        results.append(repr(e))
                    connection.close()

            # The first client comes before the server does: its connection waits.
            thread = threading.Thread(target=client)
            thread.start()
            for _ in range(3):
                time.sleep(0.2)
                process = start_activated([tcp, unix])
                before = len(results)
                deadline = time.monotonic() + 20 * SLOW
                while len(results) < before + 30 and time.monotonic() < deadline:
                    time.sleep(0.02)
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(path)
                    s.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
                    self.assertIn(b" 200 ", s.recv(1000))
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(20 * SLOW), 0, process.stderr.read())
                process.stderr.close()
            self.assertTrue(os.path.exists(path), "the socket file is systemd's, not imfd's")
            process = start_activated([tcp, unix])
            over.set()
            thread.join()
            process.terminate()
            process.wait(20 * SLOW)
            process.stderr.close()
            print("%d requests over three restarts" % len(results))
            self.assertGreater(len(results), 90)
            self.assertEqual({r for r in results if r != 200 and r != 503}, set())

    def test_no_socket(self):
        process = start_activated([])
        _, text = process.communicate(timeout=20 * SLOW)
        self.assertEqual(process.returncode, 1)
        self.assertIn("systemd passed no socket", text)

    def test_meant_for_another_process(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen(5)
            process = start_activated([s], pid=1)
            _, text = process.communicate(timeout=20 * SLOW)
            self.assertEqual(process.returncode, 1)
            self.assertIn("systemd passed no socket", text)

    def test_not_a_listening_socket(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            process = start_activated([s])
            _, text = process.communicate(timeout=20 * SLOW)
            self.assertEqual(process.returncode, 1)
            self.assertIn("no listening stream socket", text)


if __name__ == "__main__":
    need("systemd-analyze")
    unittest.main(verbosity=2)

"""Engines that do not come back, memory and threads that are not there: the service says so, goes on
where it can, and leaves when it is told to."""
import http.client
import os
import resource
import signal
import subprocess
import time
import unittest

from imfd_server import IMFD, Server, clean_environment, in_threads, post_bytes

SANITIZED = float(os.environ.get("HTTP_TEST_SLOW", "1")) > 1


class StuckEngine(unittest.TestCase):
    """Class 7 makes the fake engine hang."""

    def hang(self, server):
        s = server.connect()
        s.sendall(post_bytes({"class": 7}))
        server.wait_metric("imfd_requests_running", 1)
        return s

    def leave(self, server):
        """It goes when its time is up, with the engine left behind."""
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait_exit(60), 1)
        server.check_log()
        self.assertRegex(server.log(), "leaving it")

    def test_it_is_noticed(self):
        server = Server("--stall-timeout", "1", "--drain-timeout", "0", device="fake:hang_label=7")
        with self.hang(server):
            server.wait_log("device fake:hang_label=7 is stuck", 60)
            for path in ("/readyz", "/health", "/livez"):
                r = server.get(path)
                self.assertEqual((r.status, r.json()["status"]), (503, "stuck"))
            model = server.get("/v1/models").json()["data"][0]["id"]
            for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{model}/ready"):
                self.assertEqual(server.get(path).status, 503, path)
            self.assertEqual(server.get("/readyz").json()["devices"], {"fake:hang_label=7": "stuck"})
            self.assertEqual(server.metric("imfd_device_stuck", device="fake"), 1)
            self.assertEqual(server.metric("imfd_device_up", device="fake"), 0)
            self.assertEqual(server.metric("imfd_ready"), 0)
            r = server.generate({"class": 1})
            self.assertEqual((r.status, r.error()["code"]), (503, "overloaded"))
            self.assertIn("does not answer", r.error()["message"])
            self.assertEqual(server.metric("imfd_rejected_total", reason="stuck"), 1)
            self.leave(server)

    def test_the_time_to_drain_bounds_the_exit(self):
        server = Server("--drain-timeout", "1", device="fake:hang_label=7")
        with self.hang(server):
            self.leave(server)
        self.assertIn("1 requests are cut off", server.log())

    def test_an_idle_engine_is_alive(self):
        with Server("--stall-timeout", "1") as server:
            time.sleep(3)
            self.assertEqual(server.get("/readyz").status, 200)
            self.assertEqual(server.metric("imfd_device_stuck"), 0)

    def test_a_long_load_does_not_hold_it(self):
        server = Server("--drain-timeout", "1", device="fake:load_ms=600000", wait=False)
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait_exit(60), 1)


def serve_within(limit, most, *options):
    """`imfd serve` under a limit of the system: its status, after SIGTERM where it came to serve, and what it said."""
    process = subprocess.Popen(
        [IMFD, "serve", "--listen", "127.0.0.1:0", *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env=clean_environment(),
        preexec_fn=lambda: resource.setrlimit(limit, (most,) * 2))
    said = ""
    for line in process.stderr:
        said += line
        if line.endswith(" ready\n"):
            process.send_signal(signal.SIGTERM)
    process.stderr.close()
    return process.wait(60), said


@unittest.skipIf(SANITIZED, "a sanitizer needs the memory for itself")
class LittleMemory(unittest.TestCase):
    def start(self, mib):
        """The real engine under a limit on address space."""
        return serve_within(resource.RLIMIT_AS, mib << 20, "--threads", "2")

    def test_a_sentence_or_a_service(self):
        """Never a signal, whatever is missing."""
        for mib in range(20, 600, 20):
            with self.subTest(mib=mib):
                code, said = self.start(mib)
                if " ready\n" in said:
                    self.assertEqual(code, 0, said)
                else:
                    self.assertIn(code, (1, 127), said)  # 127: the loader has no room for libraries
                    self.assertRegex(said, "memory|address space|allocate|map segment")

    def test_the_sentence_tells_the_limit(self):
        code, said = self.start(150)
        self.assertEqual(code, 1)
        self.assertRegex(said, r"the limit on address space \(ulimit -v\) leaves \d+ MB")

    def test_a_burst(self):
        """Pictures of 12 MB, far more than there is room for: some are refused, and then all is well again."""
        with Server("--cache-bytes", "1G", device="fake:size=2048",
                    prefix=("prlimit", "--as=%d" % (200 << 20))) as server:
            def ask(i):
                try:
                    return server.generate({"class": i, "n": 4}, accept="application/x-npy").status
                except http.client.IncompleteRead:
                    return "cut"  # there was memory when it began
            codes = in_threads([lambda i=i: ask(i) for i in range(8)])
            self.assertTrue(set(codes) <= {200, 503, "cut"}, codes)
            for i in range(20, 28):
                self.assertIn(server.generate({"class": i}, accept="image/png").status, (200, 503))
            self.assertGreater(server.metric("imfd_memory_shortages_total"), 0)
            self.assertEqual(server.generate({"class": 50}, accept="image/png").status, 200)
            self.assertEqual(server.get("/readyz").status, 200)

    def test_390_mb_are_enough(self):
        self.assertEqual(self.start(390)[0], 0)


class FewDescriptors(unittest.TestCase):
    def test_a_sentence_or_a_service(self):
        """Never a signal, however few there are."""
        for most in range(3, 16):
            with self.subTest(descriptors=most):
                code, said = serve_within(resource.RLIMIT_NOFILE, most, "--device", "fake:size=16")
                if " ready\n" in said:
                    self.assertEqual(code, 0, said)
                else:
                    self.assertIn(code, (1, 127), said)
                    self.assertRegex(said, "[Tt]oo many open files|descriptors|Error 24")

    def test_more_clients_than_descriptors(self):
        """Those that wait longest for nothing make room."""
        with Server(prefix=("prlimit", "--nofile=40:40")) as server:
            self.assertRegex(server.log(), r"warn  8 connections at a time.* \(ulimit -n\) is 40\n")
            idle = [server.connect() for _ in range(100)]
            for _ in range(5):
                self.assertEqual(server.generate({"class": 1}, accept="image/png").status, 200)
            for s in idle:
                s.close()
            self.assertEqual(server.get("/livez").status, 200)


if __name__ == "__main__":
    unittest.main()

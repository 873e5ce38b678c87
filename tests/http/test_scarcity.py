"""Engines that do not come back, memory and threads that are not there: the service says so, goes on
where it can, and leaves when it is told to."""
import signal
import time
import unittest

from imfd_server import Server, post_bytes


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


if __name__ == "__main__":
    unittest.main()

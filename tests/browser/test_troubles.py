"""The page when things are not well: the server's own words, waiting times, and coming back by itself."""
import pathlib
import threading
import time
import unittest

from page_case import PageCase, Server


class Troubles(PageCase):
    def serve(self, *flags, **more):
        server = Server(*flags, **more)
        self.addCleanup(lambda: server.process.poll() is None and server.stop())
        return server, f"http://127.0.0.1:{server.port}"

    def test_refused(self):
        """What the server refuses is shown in its words, and no empty frame stays."""
        _, url = self.serve(device="fake:classes=20,size=64")
        self.open(url)
        self.drawn(8)
        self.fill("t-min", "0.9")
        self.fill("t-max", "0.5")
        self.id("go").click()
        self.until(lambda: "t_m" in self.id("problem").text)
        self.assertIn("400", self.id("problem").text)
        self.assertEqual(self.all(".card.waiting"), [])
        self.shot("refused")

    def test_overloaded(self):
        """A full queue: the server's Retry-After is counted down, and the pictures come in the end."""
        server, url = self.serve("--max-queue", "8", "--max-n", "8", "--max-batch", "1", device="fake:step_us=300000,classes=50,size=64")
        self.open(url, "#n=1&mode=seeds&class=1")
        self.drawn(1)
        self.fill("count", "6")
        other = threading.Thread(target=server.generate, args=({"class": 3, "n": 8},))
        other.start()
        self.addCleanup(other.join)
        server.wait_metric("imfd_requests_running", 1)
        self.id("go").click()
        self.until(lambda: "Trying again in" in self.id("problem").text)
        self.assertIn("503", self.id("problem").text)
        self.shot("overloaded")
        self.drawn(7)
        self.assertFalse(self.id("problem").is_displayed())

    def test_queue_time(self):
        """While pictures wait for others' the page says for how long, and afterwards how long it was."""
        server, url = self.serve("--max-batch", "1", device="fake:step_us=600000,classes=50,size=64")
        self.open(url, "#n=1&mode=seeds&class=1")
        self.drawn(1)
        other = threading.Thread(target=server.generate, args=({"class": 3, "n": 2, "priority": 0},))
        other.start()
        self.addCleanup(other.join)
        server.wait_metric("imfd_requests_running", 1)
        self.id("go").click()
        self.until(lambda: "waiting for" in self.id("summary").text)
        self.shot("waiting")
        self.drawn(2)
        self.assertRegex(self.id("summary").text, r"queue [1-9]\d\d+")

    def test_stop(self):
        server, url = self.serve("--max-batch", "1", device="fake:step_us=300000,classes=50,size=64")
        self.open(url, "#n=1&mode=seeds&class=1")
        self.drawn(1)
        self.fill("count", "32")
        self.id("go").click()
        self.until(lambda: len(self.cards()) > 1)
        self.id("stop").click()
        self.until(self.idle)
        self.assertFalse(self.id("problem").is_displayed())
        server.wait_metric("imfd_requests_running", 0)

    def test_key(self):
        keys = self.folder / "keys"
        pathlib.Path(keys).write_text("alice sesame-open-please\n")
        _, url = self.serve("--api-keys-file", str(keys), device="fake:classes=20,size=64")
        self.open(url)
        self.until(lambda: self.id("key").is_displayed())
        self.assertIn("API key", self.id("state").text)
        self.shot("key")
        self.id("key").send_keys("sesame-open-please")
        self.drawn(8)

    def test_loading(self):
        _, url = self.serve(device="fake:load_ms=2500,classes=20,size=64", wait=False)
        self.open(url)
        self.until(lambda: self.id("loading").is_displayed())
        self.assertIn("loading", self.id("state").text)
        self.shot("loading")
        self.drawn(8)

    def test_gone_and_back(self):
        server, url = self.serve(device="fake:classes=20,size=64")
        self.open(url)
        self.drawn(8)
        self.assertEqual(server.stop(), None)
        self.id("go").click()
        self.until(lambda: "no answer" in self.id("problem").text)
        self.assertEqual(self.id("state").get_attribute("data-state"), "bad")
        self.assertEqual(len(self.cards()), 8, "what was drawn stays")
        self.shot("gone")
        time.sleep(0.1)
        self.serve(device="fake:classes=20,size=64", listen=f"127.0.0.1:{server.port}")
        self.until(lambda: self.id("state").get_attribute("data-state") == "good")
        self.assertFalse(self.id("problem").is_displayed())


if __name__ == "__main__":
    unittest.main()

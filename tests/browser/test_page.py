"""The web page as a person uses it: a real imfd (tiny model, tiny decoder) and a real browser."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest
import urllib.request
import zipfile

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

IMFD = os.environ["IMFD"]
SHOTS = pathlib.Path(os.environ.get("SHOTS", "."))
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"


class Server:
    """imfd on a free port with two models that share one checkpoint."""

    def __init__(self, folder):
        decoder = folder / "vae"
        decoder.mkdir()
        subprocess.run([IMFD, "synth", "sd-vae", "--config", "channels=32:32:64:64", "--seed", "5",
                        "-o", decoder / "diffusion_pytorch_model.safetensors"], check=True, stdout=subprocess.DEVNULL)
        shutil.copy(GOLDEN / "vae_tiny" / "config.json", decoder)
        checkpoint = GOLDEN / "mit_tiny" / "mit_tiny.pth"
        models = [{"id": name, "checkpoint": str(checkpoint), "decoder": str(decoder), "precision": precision}
                  for name, precision in (("tiny", "fp32"), ("tiny-b", "bf16"))]
        config = folder / "imfd.json"
        config.write_text(json.dumps({"listen": "127.0.0.1:0", "device": "cpu", "models": models}))
        self.process = subprocess.Popen([IMFD, "serve", "--config", config], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        for line in self.process.stdout:
            found = re.search(r"listening on (http://\S+)", line)
            if found:
                self.url = found.group(1)
                break
        else:
            raise RuntimeError("imfd did not start")

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=20)
        return self.process.returncode


def browser(downloads):
    options = webdriver.ChromeOptions()
    options.binary_location = os.environ["CHROMIUM"]
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(os.environ["CHROMEDRIVER"]))


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="imfd-page-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.downloads = cls.folder / "downloads"
        cls.downloads.mkdir()
        cls.server = Server(cls.folder)
        cls.addClassCleanup(lambda: cls.server.process.poll() is None and cls.server.stop())
        cls.driver = browser(cls.downloads)
        cls.addClassCleanup(cls.driver.quit)

    def setUp(self):
        # The page's own policy forbids to fetch blob: pictures, which bytes_shown does; the last test
        # runs under the policy.
        self.driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": "test_z" not in self.id_of_test()})
        self.open("#model=tiny&steps=1&omega=4&t_min=0.4&t_max=0.65&class=random&n=4&mode=seeds")

    def id_of_test(self):
        return unittest.TestCase.id(self)

    def open(self, hash_=""):
        self.driver.get("about:blank")
        self.driver.get(f"{self.server.url}/{hash_}")
        self.until(lambda d: len(Select(self.id("model")).options) == 2)
        self.until(lambda d: self.id("omega-out").text not in ("", "NaN"))

    def id(self, name):
        return self.driver.find_element(By.ID, name)

    def until(self, condition, seconds=40):
        return WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(condition)

    def cards(self):
        return self.driver.find_elements(By.CSS_SELECTOR, ".card:not(.waiting)")

    def shot(self, name):
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))

    def fill(self, name, value):
        self.driver.execute_script("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
                                   self.id(name), value)

    def draw(self, count):
        self.id("go").click()
        self.until(lambda d: len(self.cards()) == count and not d.find_elements(By.CSS_SELECTOR, ".card.waiting"))
        self.until(lambda d: " in " in self.id("summary").text)

    def mode(self, value):
        self.driver.find_element(By.CSS_SELECTOR, f"input[name=mode][value={value}]").click()

    def bytes_shown(self, card):
        return bytes(self.driver.execute_async_script(
            "const [card, done] = arguments; fetch(card.querySelector('img').src).then(r => r.arrayBuffer())"
            ".then(b => done([...new Uint8Array(b)]))", card))

    def test_search_by_keyboard_and_draw(self):
        field = self.id("class")
        field.send_keys("3")
        self.until(lambda d: self.id("class-list").is_displayed())
        self.assertEqual(field.get_attribute("aria-expanded"), "true")
        self.shot("search")
        field.send_keys(Keys.ENTER)
        self.assertFalse(self.id("class-list").is_displayed())
        chosen = field.get_attribute("value")
        self.assertTrue(chosen)
        self.fill("seed", "7")
        self.draw(4)
        for card in self.cards():
            self.assertEqual(self.driver.execute_script("return arguments[0].querySelector('img').naturalWidth", card), 256)
            self.assertIn(chosen, card.text)
        self.assertEqual(len({self.bytes_shown(c) for c in self.cards()}), 4, "four seeds, four pictures")
        self.shot("pictures")

    def test_full_size_and_permanent_link(self):
        self.fill("class", "3")
        self.fill("seed", "11")
        self.draw(4)
        card = self.cards()[1]
        shown = self.bytes_shown(card)
        card.click()
        self.until(lambda d: self.id("viewer").is_displayed())
        self.assertIn("12", self.id("viewer-facts").text)
        self.shot("viewer")
        # The clipboard is not readable here: catch what the page writes to it.
        self.driver.execute_script("navigator.clipboard.writeText = t => { window.copied = t; return Promise.resolve(); }")
        self.id("copy-link").click()
        link = self.until(lambda d: d.execute_script("return window.copied"))
        self.assertEqual(urllib.request.urlopen(link).read(), shown, "the link gives the picture shown, byte for byte")
        self.id("copy-curl").click()
        self.until(lambda d: d.execute_script("return window.copied").startswith("curl "))
        command = self.driver.execute_script("return window.copied")
        out = self.folder / "curl.png"
        subprocess.run(["sh", "-c", re.sub(r"-o \S+", f"-s -o {out}", command)], check=True)
        self.assertEqual(out.read_bytes(), shown, "the curl command gives the same bytes")
        before = self.id("viewer-facts").text
        self.id("viewer").send_keys(Keys.ARROW_RIGHT)
        self.assertNotEqual(self.id("viewer-facts").text, before)
        self.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
        self.until(lambda d: not self.id("viewer").is_displayed())

    def test_sweep_and_compare(self):
        self.fill("class", "5")
        self.mode("omega")
        self.draw(4)
        captions = [c.text for c in self.cards()]
        self.assertEqual(captions[0], "guidance 1")
        self.assertEqual(len({self.bytes_shown(c) for c in self.cards()}), 4, "guidance changes the picture")
        self.shot("sweep")
        self.id("clear").click()
        self.mode("models")
        self.assertTrue(self.id("other-label").is_displayed())
        self.draw(8)
        self.assertEqual({c.text.split(" ")[0] for c in self.cards()}, {"tiny", "tiny-b"})
        self.shot("compare")

    def test_save(self):
        self.draw(4)
        self.id("save-zip").click()
        self.id("save-grid").click()
        archive, grid = self.downloads / "imfd.zip", self.downloads / "imfd_grid.png"
        self.until(lambda d: archive.exists() and grid.exists())
        with zipfile.ZipFile(archive) as z:
            self.assertIsNone(z.testzip())
            self.assertEqual(len(z.namelist()), 4)
            self.assertEqual({z.read(n) for n in z.namelist()}, {self.bytes_shown(c) for c in self.cards()})
        self.assertEqual(grid.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
        self.assertEqual(int.from_bytes(grid.read_bytes()[16:20], "big"), 512)

    def test_problems_are_shown(self):
        self.fill("class", "no such thing")
        self.id("go").click()
        self.until(lambda d: "no such thing" in self.id("problem").text)
        self.fill("class", "random")
        self.fill("t-min", "0.9")  # above t_max: the server refuses, in its own words
        self.id("go").click()
        self.until(lambda d: "t_m" in self.id("problem").text)
        self.assertEqual(self.driver.find_elements(By.CSS_SELECTOR, ".card.waiting"), [])
        self.shot("problem")

    def test_phone_and_dark(self):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                    {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
        try:
            self.draw(4)
            wide = self.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
            self.assertLessEqual(wide, 0, "nothing sticks out on a phone")
            self.shot("phone_dark")
            self.cards()[0].click()
            self.until(lambda d: self.id("viewer").is_displayed())
            self.shot("phone_viewer")
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def test_address_holds_the_settings(self):
        self.fill("class", "6")
        self.fill("seed", "99")
        self.draw(4)
        address = self.driver.current_url
        first = [self.bytes_shown(c) for c in self.cards()]
        self.open(address[address.index("#"):])
        self.assertEqual(self.id("seed").get_attribute("value"), "99")
        self.draw(4)
        self.assertEqual([self.bytes_shown(c) for c in self.cards()], first)

    def test_z_quiet_and_at_home(self):
        """No error on the console, no request to anywhere else; then the server goes away."""
        self.driver.get_log("browser")  # what earlier tests left
        self.draw(4)
        hosts = self.driver.execute_script("return performance.getEntriesByType('resource').map(e => new URL(e.name).origin)")
        self.assertEqual({h for h in hosts if h != "null"}, {self.server.url})
        errors = [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]
        self.assertEqual(errors, [])
        self.assertEqual(self.server.stop(), 0)
        self.id("go").click()
        self.until(lambda d: "no answer" in self.id("problem").text)
        self.shot("gone")


if __name__ == "__main__":
    unittest.main()

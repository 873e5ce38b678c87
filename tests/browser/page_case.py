"""What the browser tests share: real servers, a real browser, and the page as a person sees it."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "http"))
from imfd_server import IMFD, Server  # noqa: E402

SHOTS = pathlib.Path(os.environ.get("SHOTS", "."))
DEMO = HERE.parent.parent / "models" / "demo"
PNG = b"\x89PNG\r\n\x1a\n"


def real_server(folder):
    """The demo model as this machine likes it, the same in float32, and a small one with the thousand classes of ImageNet."""
    thousand = folder / "thousand.safetensors"
    subprocess.run([IMFD, "synth", "MiT", "--config", "depth=2,hidden=64,classes=1000,input_size=16,patch=4",
                    "-o", thousand], check=True, stdout=subprocess.DEVNULL)
    decoder = str(DEMO / "taesd_demo.safetensors")
    models = [{"id": "demo", "checkpoint": str(DEMO / "mit_demo.safetensors"), "decoder": decoder},
              {"id": "demo-fp32", "checkpoint": str(DEMO / "mit_demo.safetensors"), "decoder": decoder, "precision": "fp32"},
              {"id": "thousand", "checkpoint": str(thousand), "decoder": decoder}]
    config = folder / "imfd.json"
    config.write_text(json.dumps({"models": models}))
    # One thread: two that wait for each other crawl where other tests keep the processors busy.
    return Server("--config", str(config), "--threads", "1", device="cpu")


def start_browser(downloads):
    options = webdriver.ChromeOptions()
    options.binary_location = os.environ["CHROMIUM"]
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for attempt in range(3):  # on a busy machine it may not come up in the time chromedriver gives it
        try:
            return webdriver.Chrome(options=options, service=Service(os.environ["CHROMEDRIVER"]))
        except WebDriverException:
            if attempt == 2:
                raise


class PageCase(unittest.TestCase):
    """A browser for each class of tests. Subclasses say which server `server_url` is."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="imfd-page-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.downloads = cls.folder / "downloads"
        cls.downloads.mkdir()
        cls.driver = start_browser(cls.downloads)
        cls.addClassCleanup(cls.driver.quit)

    def open(self, url, hash_=""):
        self.driver.get("about:blank")
        self.driver.get(f"{url}/{hash_}")

    def id(self, name):
        return self.driver.find_element(By.ID, name)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, condition, seconds=40):
        return WebDriverWait(self.driver, seconds, poll_frequency=0.03).until(lambda d: condition())

    def shot(self, name):
        """A screenshot, kept as an artefact; animations are over first."""
        self.driver.execute_async_script(
            "const done = arguments[0]; Promise.race([new Promise(r => setTimeout(r, 1500)), Promise.all("
            "document.getAnimations().filter(a => a.effect.getTiming().iterations === 1).map(a => a.finished))]).then(() => done())")
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))

    # The page

    def cards(self):
        return self.all(".card:not(.waiting) .frame")

    def idle(self):
        return not self.id("stop").is_displayed() and not self.all(".card.waiting")

    def drawn(self, count):
        """Waits until the page holds so many pictures and draws no more."""
        self.until(lambda: self.idle() and len(self.cards()) == count)

    def captions(self):
        return self.js("return [...document.querySelectorAll('.caption')].map(c => c.textContent)")

    def fill(self, name, value):
        self.js("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", self.id(name), value)

    def change(self, name, value):
        self.js("for (const e of ['input', 'change']) { arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event(e)); }",
                self.id(name), value)

    def mode(self, value):
        self.all(f"input[name=mode][value={value}]")[0].click()

    def bytes_shown(self, image):
        """The bytes of a picture. The page's policy forbids to fetch them: see `without_policy`."""
        return bytes(self.driver.execute_async_script(
            "const [image, done] = arguments; fetch(image.src).then(r => r.arrayBuffer())"
            ".then(b => done([...new Uint8Array(b)]))", image))

    def pictures(self):
        return [self.bytes_shown(i) for i in self.all(".card img")]

    def without_policy(self):
        self.driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
        self.addCleanup(self.driver.execute_cdp_cmd, "Page.setBypassCSP", {"enabled": False})

    def dark(self):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                    {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
        self.addCleanup(self.driver.execute_cdp_cmd, "Emulation.setEmulatedMedia", {"features": []})

    def phone(self):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
        self.addCleanup(self.driver.execute_cdp_cmd, "Emulation.clearDeviceMetricsOverride", {})

    def console_errors(self):
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]

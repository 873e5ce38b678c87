"""What a person does on the page: real models, a real browser."""
import re
import subprocess
import unittest
import urllib.request
import zipfile

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from page_case import PNG, PageCase, real_server

CAT = "#model=demo&class=1&n=4&mode=seeds&steps=1&omega=3&t_min=0&t_max=1&seed=42"


class Page(PageCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = real_server(cls.folder)
        cls.addClassCleanup(cls.server.stop)
        cls.url = f"http://127.0.0.1:{cls.server.port}"

    def live(self):
        """On by itself where the model is quick, which a busy machine's is not."""
        if not self.id("live").is_selected():
            self.id("live").click()

    def catch_clipboard(self):
        # The clipboard is not readable here: catch what the page writes to it.
        self.js("navigator.clipboard.writeText = t => { window.copied = t; return Promise.resolve(); }")

    def copied(self, button, start):
        self.id(button).click()
        return self.until(lambda: (self.js("return window.copied") or "").startswith(start) and self.js("return window.copied"))

    def test_arrival(self):
        """A first row of pictures at once, classes as pictures, no error and no request elsewhere."""
        self.driver.get_log("browser")
        self.open(self.url)
        self.drawn(8)
        self.assertEqual(len(set(self.captions())), 8, "eight classes")
        self.until(lambda: len(self.all(".chip img")) == 20)
        self.until(lambda: self.js("return [...document.querySelectorAll('.chip img')].every(i => i.naturalWidth === 128)"))
        self.assertIn("8 pictures in", self.id("summary").text)
        self.assertIn("queue", self.id("summary").text)
        self.shot("arrival")
        hosts = self.js("return performance.getEntriesByType('resource').map(e => new URL(e.name).origin)")
        self.assertEqual({h for h in hosts if h != "null"}, {self.url})
        self.assertEqual(self.console_errors(), [])
        self.dark()
        self.shot("arrival_dark")

    def test_pick_a_class(self):
        """One click on a class draws it; earlier pictures stay below."""
        self.open(self.url)
        self.drawn(8)
        self.until(lambda: len(self.all(".chip img")) == 20)
        self.all(".chip[aria-label=rocket]")[0].click()
        self.drawn(16)
        self.assertEqual(self.id("class").get_attribute("value"), "rocket")
        self.assertEqual(self.all(".run h2")[0].text.lower(), "rocket")
        self.assertEqual(self.js("return document.querySelectorAll('.run').length"), 2)
        self.shot("history")
        self.id("any").click()
        self.drawn(24)
        self.id("clear").click()
        self.assertEqual(self.cards(), [])
        self.assertFalse(self.id("save-zip").is_enabled())

    def test_search_a_thousand_classes_by_keyboard(self):
        self.open(self.url, "#model=thousand&n=2&mode=seeds")
        self.drawn(2)
        body = self.all("body")[0]
        body.send_keys("/")
        field = self.driver.switch_to.active_element
        self.assertEqual(field.get_attribute("id"), "class")
        self.assertIn("1000", field.get_attribute("placeholder"))
        field.send_keys("golden ret")
        self.until(lambda: self.id("class-list").is_displayed())
        self.assertEqual(field.get_attribute("aria-expanded"), "true")
        self.assertIn("golden retriever", self.all("#class-list [aria-selected=true]")[0].text)
        field.send_keys(Keys.CONTROL, "a", Keys.NULL, "otter")
        field.send_keys(Keys.ARROW_DOWN, Keys.ARROW_UP)
        active = field.get_attribute("aria-activedescendant")
        self.assertIn("otter", self.id(active).text)
        self.shot("search")
        field.send_keys(Keys.ESCAPE)
        self.assertFalse(self.id("class-list").is_displayed())
        field.send_keys(Keys.CONTROL, "a", Keys.NULL, "n02099601", Keys.ENTER)  # a WordNet id
        self.drawn(4)
        self.assertEqual(field.get_attribute("value"), "golden retriever")
        field.send_keys(Keys.CONTROL, "a", Keys.NULL, "zzzz")
        self.until(lambda: "No class" in self.id("class-list").text)
        field.send_keys(Keys.ESCAPE, Keys.ENTER)
        self.until(lambda: "zzzz" in self.id("problem").text)

    def test_streaming(self):
        """Pictures appear one by one, not all at the end."""
        self.open(self.url, CAT)
        self.drawn(4)
        self.fill("count", "24")
        self.fill("steps", "4")
        self.js("window.counts = new Set(); new MutationObserver(() => window.counts.add("
                "document.querySelectorAll('.run:first-child .card:not(.waiting)').length))"
                ".observe(document.getElementById('gallery'), {subtree: true, childList: true, attributes: true})")
        self.id("go").click()
        self.drawn(28)
        self.assertGreater(len(self.js("return [...window.counts]")), 3)

    def test_full_size(self):
        self.without_policy()
        self.open(self.url, CAT)
        self.drawn(4)
        self.cards()[0].click()
        self.until(lambda: self.id("viewer").is_displayed())
        facts = self.id("viewer-facts").text
        for expected in ("demo", "42", "0 to 1"):
            self.assertIn(expected, facts)
        shown = self.bytes_shown(self.id("viewer-image"))
        self.shot("viewer")
        self.catch_clipboard()
        link = self.copied("copy-link", "http")
        self.assertEqual(urllib.request.urlopen(link).read(), shown, "the link gives the picture shown, byte for byte")
        command = self.copied("copy-curl", "curl ")
        out = self.folder / "curl.png"
        subprocess.run(["sh", "-c", re.sub(r"-o \S+", f"-s -o {out}", command)], check=True)
        self.assertEqual(out.read_bytes(), shown, "the curl command gives the same bytes")
        self.id("save-png").click()
        self.until(lambda: (self.downloads / "1_42.png").exists())
        self.assertEqual((self.downloads / "1_42.png").read_bytes(), shown)
        viewer = self.id("viewer")
        viewer.send_keys(Keys.ARROW_RIGHT)
        self.assertIn("43", self.id("viewer-facts").text)
        viewer.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        self.assertIn("45", self.id("viewer-facts").text)
        self.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        self.until(lambda: not self.id("viewer").is_displayed())
        self.until(lambda: "seed 45" in self.js("return document.activeElement.querySelector('img')?.alt || ''"))  # where one was

    def test_walk_from_a_picture(self):
        """Seeds by key and by holding, guidance by slider; the pictures found are drawn live and can be kept."""
        self.without_policy()
        self.open(self.url, CAT)
        self.drawn(4)
        self.cards()[0].click()
        before = self.bytes_shown(self.id("viewer-image"))
        self.id("viewer").send_keys(Keys.ARROW_UP, Keys.ARROW_UP)
        self.until(lambda: "44" in self.id("viewer-facts").text)
        self.change("viewer-omega", "9")
        self.until(lambda: re.search(r"Guidance\s+9\b", self.id("viewer-facts").text))
        self.assertNotEqual(self.bytes_shown(self.id("viewer-image")), before)
        self.id("keep").click()
        self.drawn(5)
        ActionChains(self.driver).click_and_hold(self.id("play")).pause(1).perform()  # longer than a click
        self.until(lambda: int(re.search(r"Seed\s+(\d+)", self.id("viewer-facts").text)[1]) > 47)
        ActionChains(self.driver).release().perform()
        self.until(lambda: self.id("play").get_attribute("aria-pressed") == "false")
        self.shot("viewer_walk")
        self.id("more").click()
        self.drawn(9)

    def test_live_guidance(self):
        """The newest pictures follow the slider, in place."""
        self.without_policy()
        self.open(self.url, CAT)
        self.drawn(4)
        before = self.pictures()
        self.live()
        for omega in ("5", "7", "9"):
            self.fill("omega", omega)
        self.until(lambda: "guidance 9" in self.all(".run .note")[0].text and self.idle())
        self.assertEqual(len(self.cards()), 4)
        self.assertTrue(all(a != b for a, b in zip(before, self.pictures())))

    def test_sweep_guidance(self):
        self.without_policy()
        self.open(self.url, CAT)
        self.drawn(4)
        self.live()
        self.mode("omega")
        self.drawn(8)
        self.assertEqual(self.captions()[:4], ["guidance 1", "guidance 4.67", "guidance 8.33", "guidance 12"])
        self.assertEqual(len(set(self.pictures()[:4])), 4, "guidance changes the picture")
        self.shot("sweep")

    def test_compare_models(self):
        self.open(self.url, CAT)
        self.drawn(4)
        self.live()
        self.mode("models")
        self.assertTrue(self.id("other-label").is_displayed())
        self.drawn(12)
        self.assertEqual(self.captions()[:3], ["demo · 42", "demo-fp32 · 42", "demo · 43"])
        self.shot("compare")
        self.assertEqual([o.text for o in self.all("#other option")], ["demo-fp32"], "not the one with other classes, nor itself")
        self.change("model", "thousand")
        self.until(lambda: "1000" in self.id("class").get_attribute("placeholder"))
        self.assertFalse(self.id("compare-label").is_displayed())

    def test_save_all(self):
        self.without_policy()
        self.open(self.url, CAT)
        self.drawn(4)
        self.id("save-zip").click()
        self.id("save-grid").click()
        archive, grid = self.downloads / "imfd.zip", self.downloads / "imfd_grid.png"
        self.until(lambda: archive.exists() and grid.exists())
        with zipfile.ZipFile(archive) as z:
            self.assertIsNone(z.testzip())
            self.assertEqual(sorted(z.namelist())[0], "demo_1_42_s1_w3.png")
            self.assertEqual({z.read(n) for n in z.namelist()}, set(self.pictures()))
        self.assertEqual(grid.read_bytes()[:8], PNG)
        self.assertEqual(int.from_bytes(grid.read_bytes()[16:20], "big"), 256)

    def test_shared_address(self):
        """An address drawn with random classes and seeds gives the same pictures again, and fixes no seed."""
        self.without_policy()
        self.open(self.url, "#model=demo&n=4&mode=classes")
        self.drawn(4)
        first = self.pictures()
        self.catch_clipboard()
        address = self.copied("share", "http")
        self.open(self.url, address[address.index("#"):])
        self.drawn(4)
        self.assertEqual(self.pictures(), first)
        self.assertEqual(self.id("seed").get_attribute("value"), "")
        self.id("go").click()
        self.drawn(8)
        self.assertNotEqual(self.pictures()[:4], first)

    def test_seeds_at_the_end(self):
        """Seeds wrap around after 2^53 - 1, exactly."""
        self.open(self.url, CAT.replace("seed=42", "seed=9007199254740990"))
        self.drawn(4)
        self.assertEqual(self.captions(), ["9007199254740990", "9007199254740991", "0", "1"])


if __name__ == "__main__":
    unittest.main()

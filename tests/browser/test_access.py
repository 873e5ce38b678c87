"""The page for everybody: on a phone, by keyboard alone, with a screen reader's rules, in light and dark."""
import importlib.util
import json
import pathlib
import unittest

from selenium.webdriver.common.keys import Keys

from page_case import PageCase, Server

AXE = importlib.util.find_spec("axe_core_python")


class Access(PageCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server(device="fake:classes=20,size=64")
        cls.addClassCleanup(cls.server.stop)
        cls.url = f"http://127.0.0.1:{cls.server.port}"

    def violations(self):
        source = (pathlib.Path(AXE.origin).parent / "axe.min.js").read_text(encoding="utf-8")
        self.js(source)
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']})"
            ".then(r => done(r.violations.map(v => [v.id, v.nodes.map(n => n.target.join(' ') + ': ' + n.any.map(a => a.message))])))")
        return json.dumps(found, indent=1) if found else ""

    @unittest.skipUnless(AXE, "axe-core-python is not installed")
    def test_axe(self):
        """axe-core finds nothing: names, roles, contrast; light and dark, list open, full size."""
        for dark in (False, True):
            if dark:
                self.dark()
            self.open(self.url)
            self.drawn(8)
            self.until(lambda: len(self.all(".chip img")) == 20)
            self.shot("axe")  # animations are over
            self.assertEqual(self.violations(), "", f"page, dark {dark}")
            self.id("class").click()
            self.assertEqual(self.violations(), "", f"list, dark {dark}")
            self.id("class").send_keys(Keys.ESCAPE)
            self.cards()[0].click()
            self.until(lambda: self.id("viewer").is_displayed())
            self.shot("axe")
            self.assertEqual(self.violations(), "", f"viewer, dark {dark}")

    def test_tab_order(self):
        """Tab goes through the controls from top to bottom, shows where it is, and enters a run of pictures once."""
        self.open(self.url, "#n=4&mode=seeds&class=2")
        self.drawn(4)
        self.until(lambda: len(self.all(".chip img")) == 20)
        self.js("document.activeElement.blur(); scrollTo(0, 0)")
        seen = []
        for _ in range(60):
            self.driver.switch_to.active_element.send_keys(Keys.TAB)
            here = self.js("const e = document.activeElement, s = getComputedStyle(e); return [e.id || e.name || e.className || e.tagName,"
                           "s.outlineStyle !== 'none' || e.type === 'radio']")
            if here[0] == "BODY" or (seen and here[0] == seen[0]):
                break
            self.assertTrue(here[1], f"the focus shows on {here[0]}")
            seen.append(here[0])
        for first, then in (("class", "any"), ("any", "chip"), ("chip", "mode"), ("mode", "go"), ("go", "omega"), ("omega", "steps"),
                            ("steps", "count"), ("count", "seed"), ("seed", "share"), ("share", "frame")):
            self.assertLess(seen.index(first), seen.index(then), f"{first} before {then} in {seen}")
        self.assertEqual(seen.count("frame"), 1, "a run of pictures is one stop")

    def test_arrow_keys_in_the_gallery(self):
        self.open(self.url, "#n=4&mode=seeds&class=2&seed=10")
        self.drawn(4)
        self.id("go").click()
        self.drawn(8)
        self.js("document.querySelector('.frame[tabindex=\"0\"]').focus()")

        def at():
            return self.js("return [...document.querySelectorAll('.frame')].indexOf(document.activeElement)")

        def press(key):
            self.driver.switch_to.active_element.send_keys(key)
            return at()
        self.assertEqual(at(), 0)
        self.assertEqual(press(Keys.ARROW_RIGHT), 1)
        self.assertEqual(press(Keys.END), 3)
        self.assertEqual(press(Keys.ARROW_RIGHT), 4, "on to the run below")
        self.assertEqual(press(Keys.ARROW_UP), 0)
        self.assertEqual(press(Keys.ARROW_DOWN), 4)
        self.driver.switch_to.active_element.send_keys(Keys.ENTER)
        self.until(lambda: self.id("viewer").is_displayed())
        self.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        self.until(lambda: not self.id("viewer").is_displayed() and at() == 4)

    def test_phone(self):
        self.phone()
        for name, dark in (("phone", False), ("phone_dark", True)):
            if dark:
                self.dark()
            self.open(self.url)
            self.drawn(8)
            self.assertLessEqual(self.js("return document.documentElement.scrollWidth - innerWidth"), 0, "nothing sticks out")
            self.assertLess(self.js("return document.querySelector('.card').getBoundingClientRect().top"), 844, "pictures on the first screen")
            self.assertFalse(self.id("steps").is_displayed(), "settings are folded away")
            self.shot(name)
            self.cards()[0].click()
            self.until(lambda: self.id("viewer").is_displayed())
            self.assertLessEqual(self.js("return document.getElementById('viewer').scrollWidth - innerWidth"), 0)
            self.shot(f"{name}_viewer")
            small = self.js("return [...document.querySelectorAll('#viewer button, #viewer a')].filter(b => b.offsetParent && "
                            "b.getBoundingClientRect().height < 36).map(b => b.id)")
            self.assertEqual(small, [], "large enough for a thumb")
            self.id("close").click()


if __name__ == "__main__":
    unittest.main()

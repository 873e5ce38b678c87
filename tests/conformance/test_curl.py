"""curl, as people use it."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))

from imfd_server import Server, ServerTest  # noqa: E402

ASK = '{"class": "otter", "seed": 1}'


class Curl(ServerTest):
    device = "fake:step_us=1000"

    def curl(self, *arguments, code=0, binary=False, stdin=None):
        arguments = [a.replace("URL", "http://127.0.0.1:%d" % self.server.port) for a in arguments]
        r = subprocess.run(["curl", "-sS", "--max-time", "60", *arguments], input=stdin,
                           capture_output=True)
        self.assertEqual(r.returncode, code, r.stderr)
        return r.stdout if binary else r.stdout.decode()

    def post(self, *arguments, **more):
        return self.curl("-H", "Content-Type: application/json", "-d", ASK, *arguments, "URL/v1/generate", **more)

    def test_png_to_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "otter.png")
            self.post("-H", "Accept: image/png", "-o", path)
            with open(path, "rb") as f:
                self.assertEqual(f.read(8), b"\x89PNG\r\n\x1a\n")
            self.curl("-OJ", "--output-dir", folder, "URL/v1/images/fake/207/3.png")
            self.assertIn("207_3.png", os.listdir(folder))

    def test_http10(self):
        self.assertEqual(len(json.loads(self.post("--http1.0"))["data"]), 1)
        out = self.curl("--http1.0", "-H", "Content-Type: application/json", "-d",
                        '{"class":1,"n":20}', "URL/v1/generate")
        self.assertEqual(len(json.loads(out)["data"]), 20)

    def test_expect(self):
        self.assertEqual(len(json.loads(self.post("-H", "Expect: 100-continue"))["data"]), 1)
        large = b'{"class": "' + b"x" * (1 << 20) + b'"}'
        out = self.curl("-H", "Content-Type: application/json", "-H", "Expect: 100-continue", "-d", "@-",
                        "-w", "%{http_code} %{size_upload}", "-o", "/dev/null", "URL/v1/generate", stdin=large)
        self.assertEqual(out, "413 0")

    def test_large_body_without_expect(self):
        large = b'{"class": "' + b"x" * (1 << 20) + b'"}'
        r = subprocess.run(["curl", "-sS", "-H", "Content-Type: application/json", "-H", "Expect:", "-d", "@-",
                            "-w", "%{http_code}", "-o", "/dev/null",
                            "http://127.0.0.1:%d/v1/generate" % self.server.port],
                           input=large, capture_output=True)
        self.assertIn(r.stdout, (b"413", b"000"))  # 000: the close overtook the reply
        self.assertEqual(self.curl("URL/livez"), '{"status":"live"}')

    def test_head(self):
        out = self.curl("-I", "URL/v1/images/fake/1/1.png")
        self.assertIn("HTTP/1.1 200", out)
        self.assertIn("ETag: ", out)

    def test_etag_file(self):
        with tempfile.TemporaryDirectory() as folder:
            tag = os.path.join(folder, "etag")
            for expected in ("200", "304"):
                out = self.curl("--etag-save", tag, "--etag-compare", tag, "-o", os.path.join(folder, "x"),
                                "-w", "%{http_code}", "URL/v1/images/fake/1/9.png")
                self.assertEqual(out, expected)

    def test_chunked_upload(self):
        out = self.post("-H", "Transfer-Encoding: chunked")
        self.assertEqual(json.loads(out)["data"][0]["class"], 360)

    def test_keep_alive(self):
        out = self.curl("-w", "%{num_connects}\n", "-o", "/dev/null", "-o", "/dev/null", "-o", "/dev/null",
                        "URL/v1/models", "URL/v1/images/fake/1/2.png", "URL/v1/classes?limit=1")
        self.assertEqual(out, "1\n0\n0\n")

    def test_parallel(self):
        out = self.curl("--parallel", "-w", "%{http_code}\n", "-o", "/dev/null", "URL/v1/images/fake/2/[1-40].png")
        self.assertEqual(out.split(), ["200"] * 40)

    def test_range_is_ignored(self):
        out = self.curl("-r", "0-3", "-w", "%{http_code}", "-o", "/dev/null", "URL/v1/images/fake/1/1.png")
        self.assertEqual(out, "200")

    def test_fail_option(self):
        self.curl("--fail", "URL/v1/images/fake/dragon/1.png", code=22)

    def test_retry(self):
        """curl --retry honours Retry-After."""
        with Server("--rate-limit", "60", device="fake") as server:
            for i in range(60):
                server.generate({"class": i})
            with tempfile.NamedTemporaryFile() as out:  # curl truncates it before it tries again
                r = subprocess.run(["curl", "-sS", "--retry", "3", "--json", ASK, "-w", "%{http_code}",
                                    "-o", out.name, "http://127.0.0.1:%d/v1/generate" % server.port],
                                   capture_output=True)
            self.assertEqual(r.stdout, b"200", r.stderr)
            self.assertEqual(server.metric("imfd_rejected_total", reason="rate"), 1)

    def test_events(self):
        out = self.curl("-N", "-H", "Content-Type: application/json", "-H", "Accept: text/event-stream",
                        "-d", '{"class":1,"n":3}', "URL/v1/generate")
        self.assertEqual(out.count("event: image\n"), 3)
        self.assertEqual(out.count("event: done\n"), 1)

    def test_abort_mid_body(self):
        """curl is killed while it uploads."""
        process = subprocess.Popen(["curl", "-sS", "-T", "-", "-X", "POST", "-H", "Expect:", "-H",
                                    "Content-Type: application/json",
                                    "http://127.0.0.1:%d/v1/generate" % self.server.port],
                                   stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        process.stdin.write(b'{"class": ')
        process.stdin.flush()
        self.server.wait_metric("imfd_connections", 1, state="reading")
        process.kill()
        process.communicate()
        self.server.wait_log(r"POST /v1/generate 499 ")
        self.server.wait_metric("imfd_connections", 0, state="reading")


if __name__ == "__main__":
    unittest.main()

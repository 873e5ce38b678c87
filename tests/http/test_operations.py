"""What the people who run it need: settings, keys, proxies, limits, logs, sockets."""
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import unittest

from imfd_server import IMFD, Server, clean_environment, in_threads, post_bytes, read_reply

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def serve(*flags, env=None):
    """Runs `imfd serve` to its end."""
    return subprocess.run([IMFD, "serve", *flags], capture_output=True, text=True, timeout=60,
                          env=clean_environment(**(env or {})))


def config(text):
    f = tempfile.NamedTemporaryFile("w", suffix=".json", delete=False)
    f.write(text)
    f.close()
    return f.name


class Settings(unittest.TestCase):
    def test_the_manual_is_current(self):
        path = os.path.join(ROOT, "conf", "imfd.json")
        with open(path, encoding="utf-8") as f:
            self.assertEqual(f.read(), serve("--print-default-config").stdout,
                             "make it anew: imfd serve --print-default-config > conf/imfd.json")
        r = serve("--config", path, "--print-config")
        self.assertEqual(r.returncode, 0, r.stderr)

    def test_origins(self):
        path = config('{ // a comment\n "max_n": 7, /* another */ "max_queue": 9, "max_body": "8K" }')
        r = serve("--config", path, "--max-n", "5", "--print-config",
                  env={"IMFD_MAX_N": "6", "IMFD_MAX_QUEUE": "8", "IMFD_CACHE_BYTES": "1M"})
        self.assertEqual(r.returncode, 0, r.stderr)
        lines = {m[1]: (json.loads(m[2]), m[3]) for m in
                 re.finditer(r'^ +"(\w+)": (.*?),? // (.*)$', r.stdout, re.M)}
        self.assertEqual(lines["max_n"], (5, "flag"))
        # Flags of lists add up; a small queue limits the default of max_n.
        r = serve("--listen", "[::1]:0", "--listen", "127.0.0.1:0", "--max-queue", "3", "--print-config")
        self.assertRegex(r.stdout, r'"listen": \["\[::1\]:0","127.0.0.1:0"\]')
        self.assertRegex(r.stdout, r'"max_n": 3,')
        self.assertEqual(lines["max_queue"], (8, "environment"))
        self.assertEqual(lines["max_body"], (8192, "file " + path))
        self.assertEqual(lines["cache_bytes"], (1 << 20, "environment"))
        self.assertEqual(lines["max_steps"], (64, "default"))
        for key in ("listen models model_dir model_name aliases device precision threads max_batch decode_batch max_queue max_n "
                    "max_steps max_delay_us max_body max_connections max_per_address "
                    "request_timeout_ms drain_timeout api_keys_file rate_limit cors_origins "
                    "trusted_proxies root_path cache_bytes png_level log_format log_level "
                    "metrics_listen").split():
            self.assertIn(key, lines)

    def test_mistakes_stop_the_start(self):
        cases = [
            (("--max-n", "65", "--max-queue", "64"), {}, "max_queue, 64"),
            (("--decode-batch", "9"), {}, "max_batch, 8"), (("--listen", ","), {}, "listen"),
            (("--cors-origins", "https://a.b/"), {}, "https://a.b/"),
            (("--device", ""), {}, "device"), (("--root-path", "x"), {}, "root_path"),
            (("--root-path", "/x/"), {}, "root_path"), (("--root-path", "/a b"), {}, "root_path"),
            (("--max-queu", "1"), {}, "max-queu"), (("--max-n", "0"), {}, "max_n"),
            (("--max-n", "x"), {}, "max_n"), (("--max-n",), {}, "max-n"), (("extra",), {}, "extra"),
            (("--precision", "fp8"), {}, "precision"), (("--max-body", "5X"), {}, "max_body"),
            ((), {"IMFD_NOTHING": "1"}, "IMFD_NOTHING"), ((), {"IMFD_MAX_N": "1.5"}, "IMFD_MAX_N"),
            (("--config", "/nonexistent"), {}, "/nonexistent"),
            (("--config", config("{")), {}, "line 1"), (("--config", config('{"a": 1}')), {}, '"a"'),
            (("--config", config('{\n"max_n": "y"}')), {}, "max_n"),
            (("--config", config('{"max_n": 1, "max_n": 2}')), {}, "max_n"),
            (("--config", config('{"max_n": [1]}')), {}, "max_n"),
            (("--config", config('{"listen": [3]}')), {}, "listen"),
            (("--models", "id=a"), {}, "checkpoint"), (("--models", "id=a/b,checkpoint=x"), {}, "a/b"),
            (("--models", "id=a,checkpoint=x;id=a,checkpoint=y"), {}, '"a"'),
            (("--models", '[{"id":"a","chekpoint":"x"}]'), {}, "chekpoint"),
            (("--aliases", "gpt"), {}, '"gpt" is not name=value'), (("--aliases", "=a"), {}, "name=value"),
            (("--aliases", "a="), {}, "name=value"), (("--aliases", "a=b,a=c"), {}, '"a" is given twice'),
            (("--aliases", '{"a": 1}'), {}, "aliases"), (("--aliases", '{"a": "b"'), {}, "aliases"),
            (("--config", config('{"aliases": ["a"]}')), {}, "aliases"), ((), {"IMFD_ALIASES": "x"}, "aliases"),
        ]
        for flags, env, name in cases:
            with self.subTest(flags=flags, env=env):
                r = serve(*flags, "--print-config", env=env)
                self.assertEqual((r.returncode, r.stdout), (2, ""))
                self.assertIn(name, r.stderr)
        for flags, name in [(("--listen", "nowhere"), "nowhere"),
                            (("--trusted-proxies", "10.0.0.0/99"), "10.0.0.0/99"),
                            (("--aliases", "gpt-image-1=nothing"), '"nothing"'),
                            (("--api-keys-file", "/nonexistent"), "/nonexistent"),
                            (("--log-file", "/nonexistent/x"), "/nonexistent/x")]:
            with self.subTest(flags=flags):
                r = serve("--device", "fake", *flags)
                self.assertEqual(r.returncode, 1)
                self.assertIn(name, r.stderr)

    def test_aliases(self):
        """The same from a file, the environment and flags; in requests, addresses and lists of models."""
        path = config('{"aliases": {"gpt-image-1": "fake", "dall-e-3": "fake"}}')
        for flags, env in ((("--config", path), {}), (("--aliases", "gpt-image-1=fake", "--aliases", "dall-e-3=fake"), {}),
                           ((), {"IMFD_ALIASES": '{"gpt-image-1": "fake", "dall-e-3": "fake"}'})):
            r = serve(*flags, "--print-config", env=env)
            self.assertRegex(r.stdout, r'"aliases": \{"gpt-image-1":"fake","dall-e-3":"fake"\}')
        with Server("--config", path) as server:
            self.assertEqual(server.generate({"class": 1, "model": "gpt-image-1"}).json()["model"], "fake")
            self.assertEqual(server.get("/v1/models/dall-e-3").json()["id"], "fake")
            self.assertEqual(server.get("/v1/images/dall-e-3/1/1.png").body,
                             server.get("/v1/images/fake/1/1.png").body)
            self.assertEqual(server.generate({"class": 1, "model": "dall-e"}).status, 404)
            # DALL-E's clients expect addresses, others pictures.
            ask = {"prompt": "otter", "model": "dall-e-3"}
            [item] = server.post("/v1/images/generations", ask).json()["data"]
            self.assertIn("/v1/images/fake/360/", item["url"])
            for more in ({"model": "gpt-image-1"}, {"response_format": "b64_json"}):
                [item] = server.post("/v1/images/generations", dict(ask, **more)).json()["data"]
                self.assertIn("b64_json", item)
            self.assertEqual(server.post("/v1/images/generations", dict(ask, stream=True)).status, 200)

    def test_model_name(self):
        with Server("--model-name", "mine") as server:
            self.assertEqual([m["id"] for m in server.get("/v1/models").json()["data"]], ["mine"])

    def test_kubernetes_service_variables_are_no_settings(self):
        r = serve("--print-config", env={"IMFD_PORT": "tcp://10.0.0.1:80", "IMFD_SERVICE_HOST": "10.0.0.1"})
        self.assertEqual(r.returncode, 0, r.stderr)

    def test_help(self):
        r = serve("--help")
        self.assertEqual(r.returncode, 0)
        self.assertIn("--max-queue", r.stdout)

    def test_port_in_use(self):
        with Server() as server:
            r = serve("--device", "fake", "--listen", "127.0.0.1:%d" % server.port)
            self.assertEqual(r.returncode, 1)
            self.assertIn("in use", r.stderr)


class Keys(unittest.TestCase):
    def setUp(self):
        self.file = tempfile.NamedTemporaryFile("w+", suffix=".keys")
        self.write("# team keys\nalice  alice-secret-1\nbob bob-secret-22\n")

    def write(self, text):
        self.file.seek(0)
        self.file.truncate()
        self.file.write(text)
        self.file.flush()

    def status(self, server, key, path="/v1/models", scheme="Bearer "):
        headers = {} if key is None else {"authorization": scheme + key}
        return server.get(path, **headers).status

    def test_access(self):
        with Server("--api-keys-file", self.file.name) as server:
            for key in (None, "", "alice-secret-", "alice-secret-11", "alice", "x" * 5000):
                r = server.get("/v1/models", **({} if key is None else {"authorization": "Bearer " + key}))
                self.assertEqual((r.status, r.error()["code"]), (401, "invalid_api_key"))
                self.assertTrue(r.headers["WWW-Authenticate"].startswith("Bearer"))
            self.assertEqual(self.status(server, "alice-secret-1", scheme="Basic "), 401)
            self.assertEqual(self.status(server, "alice-secret-1"), 200)
            self.assertEqual(self.status(server, "bob-secret-22", scheme="bearer "), 200)
            r = server.generate({"class": 1}, authorization="Bearer bob-secret-22")
            self.assertEqual(r.status, 200)
            self.assertEqual(server.generate({"class": 1}).status, 401)
            for path in ("/livez", "/readyz", "/health", "/", "/version", "/openapi.json", "/metrics"):
                self.assertEqual(self.status(server, None, path), 200)
            r = server.get("/v1/images/fake/1/1.png", authorization="Bearer alice-secret-1")
            self.assertTrue(r.headers["Cache-Control"].startswith("private"))
            server.wait_log(r"bob POST /v1/generate 200")
            self.assertNotIn("secret", server.log())

    def test_reload(self):
        with Server("--api-keys-file", self.file.name) as server:
            self.write("carol carol-secret-3\n")
            server.process.send_signal(signal.SIGHUP)
            server.wait_log(r"1 API keys read")
            self.assertEqual(self.status(server, "alice-secret-1"), 401)
            self.assertEqual(self.status(server, "carol-secret-3"), 200)
            self.write("carol\n")
            server.process.send_signal(signal.SIGHUP)
            server.wait_log(r"the old keys stay in use")
            self.assertEqual(self.status(server, "carol-secret-3"), 200)


class Limits(unittest.TestCase):
    def test_rate(self):
        with Server("--rate-limit", "5") as server:
            for i in range(5):
                self.assertEqual(server.generate({"class": i}).status, 200)
            r = server.generate({"class": 1})
            self.assertEqual((r.status, r.error()["code"]), (429, "rate_limit_exceeded"))
            self.assertTrue(10 <= int(r.headers["Retry-After"]) <= 12, r.headers["Retry-After"])
            self.assertEqual(server.metric("imfd_rejected_total", reason="rate"), 1)
            self.assertEqual(server.get("/v1/models").status, 200)

    def test_per_address(self):
        with Server("--max-per-address", "2", "--trusted-proxies", "127.0.0.1",
                    device="fake:step_us=500000") as server:
            def ask(client):
                return server.generate({"class": 1, "seed": int(client[-1])}, x_forwarded_for=client).status
            got = in_threads([lambda c=c: ask(c) for c in ["10.0.0.1"] * 4 + ["10.0.0.2"] * 2])
            self.assertEqual(sorted(got[:4]), [200, 200, 429, 429])
            self.assertEqual(got[4:], [200, 200])
            self.assertEqual(ask("10.0.0.1"), 200)


class Proxies(unittest.TestCase):
    def client(self, server, **headers):
        self.probes = getattr(self, "probes", 0) + 1
        server.get("/livez", x_request_id="probe%d" % self.probes, **headers)
        return server.wait_log(r"info  (\S+) GET /livez 200 \d+ \S+ probe%d\n" % self.probes)[1]

    def test_forwarded(self):
        with Server("--trusted-proxies", "127.0.0.0/8,10.0.0.0/8,fd00::/16") as server:
            for given, expected in [("1.2.3.4", "1.2.3.4"), ("6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4"),
                                    ("1.2.3.4,fd00::1", "1.2.3.4"), ("[2001:db8::1]:99", "2001:db8::1"),
                                    ("1.2.3.4:5678", "1.2.3.4"), ("rubbish", "127.0.0.1"),
                                    ("1.2.3.4, rubbish", "127.0.0.1"), ("", "127.0.0.1"),
                                    ("10.1.1.1, 10.2.2.2", "10.1.1.1")]:
                with self.subTest(given=given):
                    self.assertEqual(self.client(server, x_forwarded_for=given), expected)
            r = server.post("/v1/images/generations", {"prompt": "otter", "response_format": "url"},
                            x_forwarded_proto="https", x_forwarded_host="pics.example.org",
                            x_forwarded_prefix="/ai/")
            self.assertTrue(r.json()["data"][0]["url"].startswith("https://pics.example.org/ai/v1/images/"))

    def test_not_trusted(self):
        with Server() as server:
            self.assertEqual(self.client(server, x_forwarded_for="1.2.3.4"), "127.0.0.1")
            r = server.post("/v1/images/generations", {"prompt": "otter", "response_format": "url"},
                            x_forwarded_proto="https", x_forwarded_host="evil.example")
            self.assertTrue(r.json()["data"][0]["url"].startswith("http://127.0.0.1:"))

    def test_root_path(self):
        with Server("--root-path", "/images") as server:
            self.assertEqual(server.get("/images/livez").status, 200)
            self.assertEqual(server.get("/images/").status, 200)
            r = server.get("/images")  # where the page's relative links would not hold
            self.assertEqual((r.status, r.headers["Location"]), (308, "images/"))
            for path in ("/livez", "/imageslivez", "/image/livez"):
                self.assertEqual(server.get(path).status, 404, path)
            r = server.post("/images/v1/images/generations", {"prompt": "otter", "response_format": "url"})
            url = r.json()["data"][0]["url"]
            self.assertIn("/images/v1/images/fake/360/", url)
            self.assertEqual(server.get(url[url.index("/images/"):]).status, 200)
            document = server.get("/images/openapi.json").json()
            self.assertEqual(document["servers"], [{"url": "/images"}])


class Cors(unittest.TestCase):
    def test_off(self):
        with Server() as server:
            r = server.get("/livez", origin="https://a.example")
            self.assertIsNone(r.headers["Access-Control-Allow-Origin"])

    def test_listed(self):
        with Server("--cors-origins", "https://a.example,https://b.example") as server:
            r = server.get("/livez", origin="https://b.example")
            self.assertEqual(r.headers["Access-Control-Allow-Origin"], "https://b.example")
            self.assertEqual(r.headers["Vary"], "Origin")
            self.assertIn("Retry-After", r.headers["Access-Control-Expose-Headers"])
            r = server.get("/livez", origin="https://c.example")
            self.assertIsNone(r.headers["Access-Control-Allow-Origin"])
            r = server.request("OPTIONS", "/v1/generate", headers={
                "Origin": "https://a.example", "Access-Control-Request-Method": "POST"})
            self.assertEqual(r.status, 204)
            self.assertIn("POST", r.headers["Access-Control-Allow-Methods"])
            self.assertIn("Authorization", r.headers["Access-Control-Allow-Headers"])
            r = server.generate({"class": "dragon"}, origin="https://a.example")
            self.assertEqual(r.headers["Access-Control-Allow-Origin"], "https://a.example")


class Sockets(unittest.TestCase):
    def test_unix(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "imfd.sock")
            for _ in range(2):  # the second finds a socket that nobody serves any more
                server = Server(listen="unix:" + path)
                s = socket.socket(socket.AF_UNIX)
                s.connect(path)
                s.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + post_bytes({"class": 1}))
                f = s.makefile("rb")
                self.assertEqual(read_reply(f).status, 200)
                self.assertEqual(read_reply(f).status, 200)
                f.close()
                s.close()
                server.wait_log(r"unix POST /v1/generate 200")
                server.process.kill()
                server.process.wait()
                self.assertTrue(os.path.exists(path))
            with Server(listen="unix:" + path):
                r = serve("--device", "fake", "--listen", "unix:" + path)
                self.assertEqual(r.returncode, 1, "two servers on one socket")
            self.assertFalse(os.path.exists(path))

    def test_ipv6_and_several(self):
        with Server("--listen", "[::]:0,127.0.0.1:0", listen=None) as server:
            ports = [int(a.rsplit(":", 1)[1]) for a in server.addresses]
            for host, port in [("::1", ports[0]), ("127.0.0.1", ports[0]), ("127.0.0.1", ports[1])]:
                server.host, server.port = host, port
                self.assertEqual(server.get("/livez").status, 200)
            server.wait_log(r"::1 GET /livez 200")
            self.assertNotIn("::ffff:", server.log())

    def test_metrics_listen(self):
        with Server("--metrics-listen", "127.0.0.1:0") as server:
            self.assertEqual(server.get("/metrics").status, 404)
            port = int(server.addresses[1].rsplit(":", 1)[1])
            self.assertIn(b"imfd_build_info", server.request("GET", "/metrics", port=port).body)
            self.assertEqual(server.request("GET", "/v1/models", port=port).status, 404)


class Logs(unittest.TestCase):
    def test_json(self):
        with Server("--log-format", "json") as server:
            server.generate({"class": 1, "n": 2}, x_request_id="job-1")
            server.get("/v1/classes?q=%22%0a")
            line = json.loads(server.wait_log(r'\n(\{.*"job-1".*\})\n')[1])
            self.assertEqual((line["method"], line["uri"], line["status"], line["n"], line["client"]),
                             ("POST", "/v1/generate", 200, 2, "127.0.0.1"))
            for key in ("time", "level", "bytes", "duration_ms", "queue_ms", "denoise_ms", "decode_ms",
                        "encode_ms"):
                self.assertIn(key, line)
            server.wait_log(r"classes\?q")
            for line in server.log().splitlines():
                json.loads(line)

    def test_routers(self):
        """What a router says of a request is on its line, cut short; so is why it was sent away."""
        said = {"x-gateway-destination-endpoint": "10.0.0.7:8080", "x-llm-d-inference-objective": "batch",
                "x-llm-d-inference-fairness-id": "team-a" + "x" * 200}
        for form in ("text", "json"):
            with Server("--log-format", form, "--max-queue", "2", device="fake:step_us=300000") as server:
                server.request("POST", "/v1/generate", b'{"class": 1}', dict(said, **{"X-Request-Id": "routed"}))
                threads = [threading.Thread(target=server.generate, args=({"class": c, "n": 2},)) for c in (2, 3, 4)]
                for t in threads:
                    t.start()
                for t in threads:
                    t.join()
                self.assertGreater(server.metric("imfd_rejected_total", reason="queue"), 0)
                if form == "text":
                    line = server.wait_log(r"routed.*")[0]
                    self.assertIn(" endpoint=10.0.0.7:8080 objective=batch fairness=team-axxx", line)
                    server.wait_log(r" 503 .* refused=overloaded")
                    self.assertLess(len(line), 400)
                else:
                    line = json.loads(server.wait_log(r'\n(\{.*"routed".*\})\n')[1])
                    self.assertEqual((line["endpoint"], line["objective"]), ("10.0.0.7:8080", "batch"))
                    server.wait_log(r'"status":503,.*"refused":"overloaded"')

    def test_forged_lines(self):
        with Server() as server:
            with server.connect() as s:
                s.sendall(b"GET /x\x1b[31m\x0bok HTTP/1.1\r\nHost: x\r\n\r\n")
                s.recv(1000)
            server.wait_log(r"GET /x\\x1b\[31m\\x0bok 400")

    def test_reopen(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "imfd.log")
            server = Server.__new__(Server)
            process = subprocess.Popen([IMFD, "serve", "--device", "fake", "--listen", "127.0.0.1:0",
                                        "--log-file", path],
                                       env=clean_environment())
            server.process = process

            def text(name):
                return open(name, encoding="utf-8").read() if os.path.exists(name) else ""
            server.log = lambda: text(path)
            server.wait_log(r"info  ready\n")
            server.host, server.port = "127.0.0.1", int(re.search(r"127.0.0.1:(\d+)", text(path))[1])
            os.rename(path, path + ".1")
            process.send_signal(signal.SIGHUP)
            server.wait_log(r"log opened anew")
            server.get("/livez")
            server.wait_log(r"GET /livez 200")
            self.assertNotIn("/livez", text(path + ".1"))
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(20), 0)


if __name__ == "__main__":
    unittest.main()

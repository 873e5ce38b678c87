"""nginx and HAProxy with the files of conf/ before three real replicas (two on TCP, one on a unix
socket) with the fake engine. Usage: test_proxy.py nginx|haproxy."""
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

from deploy import (ROOT, Load, Proxy, Replica, Site, edit, free_port, make_certificate, need, wait_for)

# A picture takes 10 ms: slow enough that work is in flight whenever a replica is killed.
DEVICE = "fake:step_us=8000,decode_us=2000"
PICTURE = "/v1/images/fake/207/%d.png"
ROUTE = "/v1/images/{model}/{class}/{seed}.{format}"


def read_conf(*path):
    with open(os.path.join(ROOT, "conf", *path)) as f:
        return f.read()


def start_nginx(folder, site_ports, servers, rate, certificate, timeout):
    port, tls_port = site_ports
    key, crt, _ = certificate
    text = edit(read_conf("nginx", "imfd.conf"),
                (r"    server unix:.*\n    server .*\n    server .*\n",
                 "".join("    server %s max_fails=0;\n" % s for s in servers)),
                (r"/var/cache/nginx", folder + "/var/cache/nginx"),
                (r"proxy_read_timeout 130s", "proxy_read_timeout " + timeout),
                (r"/var/log/nginx", folder),
                (r"/etc/nginx/imfd\.crt", crt), (r"/etc/nginx/imfd\.key", key),
                (r"listen 80;", "listen 127.0.0.1:%d;" % port),
                (r"listen 443 ssl", "listen 127.0.0.1:%d ssl" % tls_port),
                (r"\n    listen \[::\].*", ""))
    if rate is not None:
        text = edit(text, (r"rate=20r/s", "rate=%dr/s" % rate), (r"burst=40", "burst=10000"),
                    (r"imfd_connections 64", "imfd_connections 1000"))
    # The folder of the cache, by the command that the file gives.
    [command] = re.findall(r"(?m)^#\s+(mkdir .*)$", text)
    subprocess.run(shlex.split(command), check=True)
    with open(folder + "/imfd.conf", "w") as f:
        f.write(text)
    with open(folder + "/nginx.conf", "w") as f:
        f.write("%sdaemon off; worker_processes 1; pid %s/nginx.pid; error_log stderr warn;\n"
                "events { worker_connections 2048; }\nhttp {\n" %
                ("user root;\n" if os.getuid() == 0 else "", folder))
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
            f.write("%s_temp_path %s/%s;\n" % (kind, folder, kind))
        f.write("include %s/imfd.conf;\n}\n" % folder)
    return ["nginx", "-p", folder, "-e", "stderr", "-c", folder + "/nginx.conf"]


def start_haproxy(folder, site_ports, servers, rate, certificate, timeout):
    port, tls_port = site_ports
    lines = "".join("    server imfd%d %s\n" % (i, s.replace("unix:", "unix@"))
                    for i, s in enumerate(servers))
    text = edit(read_conf("haproxy", "imfd.cfg"),
                (r"(?:    server imfd\d .*\n)+", lines),
                (r"bind :80$", "bind 127.0.0.1:%d" % port),
                (r"bind :443", "bind 127.0.0.1:%d" % tls_port),
                (r"timeout server 130s", "timeout server " + timeout),
                (r"/etc/haproxy/imfd\.pem", certificate[2]))
    if rate is not None:
        text = edit(text, (r"sc0_http_req_rate gt 40", "sc0_http_req_rate gt %d" % rate),
                    (r"sc0_conn_cur gt 64", "sc0_conn_cur gt 1000"))
    with open(folder + "/imfd.cfg", "w") as f:
        f.write(text)
    return ["haproxy", "-db", "-f", folder + "/imfd.cfg"]


START = {"nginx": start_nginx, "haproxy": start_haproxy}
KIND = "nginx"


class ProxyTest(unittest.TestCase):
    rate = 100000
    timeout = "130s"  # the files' own

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="imfd-proxy-")
        certificate = make_certificate(cls.folder)
        listens = ["unix:%s/imfd.sock" % cls.folder] + ["127.0.0.1:%d" % free_port() for _ in range(2)]
        cls.replicas = [Replica(cls.folder, i, listen, DEVICE, "--trusted-proxies", "unix,127.0.0.1")
                        for i, listen in enumerate(listens)]
        ports = free_port(), free_port()
        cls.site = Site(*ports, certificate[1])
        command = START[KIND](cls.folder, ports, listens, cls.rate, certificate, cls.timeout)
        cls.proxy = Proxy(command, cls.folder + "/proxy.log")
        try:
            wait_for("the proxy", cls.answers)
        except AssertionError:
            print(cls.proxy.log())
            raise

    @classmethod
    def status_of(cls, path):
        try:
            return cls.site.request("GET", path).status
        except OSError:
            return None

    @classmethod
    def answers(cls):
        return cls.status_of("/readyz") == 200

    @classmethod
    def tearDownClass(cls):
        cls.proxy.stop()
        for replica in cls.replicas:
            replica.drain()
        shutil.rmtree(cls.folder)

    def total(self, name, **labels):
        return sum(r.metric(name, **labels) for r in self.replicas)


class Content(ProxyTest):
    def test_least_conn_spreads(self):
        before = [r.metric("imfd_images_total") for r in self.replicas]
        load = Load(self.site, 12)
        load.more(150)
        self.assertEqual(set(load.stop()), {200}, load.errors[:3])
        after = [r.metric("imfd_images_total") for r in self.replicas]
        for a, b in zip(before, after):
            self.assertGreater(b - a, 20, "a replica was left out: %s %s" % (before, after))

    def test_connections_are_kept(self):
        before = self.total("imfd_connections_accepted_total")
        for i in range(40):
            self.assertEqual(self.site.request("GET", "/v1/models").status, 200)
        # Metrics are asked over connections of their own: three before, three after.
        self.assertLess(self.total("imfd_connections_accepted_total") - before, 6 + 14)

    def test_503_goes_to_the_next(self):
        """A replica that still loads listens already, and says 503."""
        loading = self.replicas[1]
        loading.kill()
        loading.device = DEVICE + ",load_ms=1500"
        loading.start(wait=False)
        wait_for("it to listen", lambda: self.opens(loading.listen))
        statuses = {self.site.request("GET", PICTURE % (5000 + i)).status for i in range(12)}
        refused = len(re.findall(r"GET /v1/images/fake/207/50\d\d.png 503 ", loading.log()))
        loading.device = DEVICE
        wait_for("it to be ready", loading.ready)
        print("%s: 12 requests, %d of them refused by one replica first" % (KIND, refused))
        self.assertEqual(statuses, {200})
        self.assertGreater(refused, 0)

    @staticmethod
    def opens(address):
        try:
            socket.create_connection(address.split(":")).close()
            return True
        except OSError:
            return False

    def test_cache(self):
        before = self.total("imfd_requests_total", route=ROUTE)
        hits, bodies = 0, {}
        for round_ in range(10):
            for seed in range(5):
                answer = self.site.request("GET", PICTURE % seed)
                self.assertEqual(answer.status, 200)
                hits += answer.headers.get("X-Cache") == "HIT"
                self.assertEqual(bodies.setdefault(seed, answer.body), answer.body)
        asked = self.total("imfd_requests_total",
                           route=ROUTE) - before
        print("%s: 50 GETs of 5 pictures, %d hits, imfd asked %d times" % (KIND, hits, asked))
        self.assertEqual(hits, 45)
        self.assertEqual(asked, 5)

    def test_cache_keeps_conditions(self):
        first = self.site.request("GET", PICTURE % 77)
        etag = first.headers["ETag"]
        self.assertTrue(etag.startswith('"'), etag)
        again = self.site.request("GET", PICTURE % 77, if_none_match=etag)
        self.assertEqual((again.status, again.body), (304, b""))
        other = self.site.request("GET", (PICTURE % 77) + "?steps=2")
        self.assertEqual(other.status, 200)
        self.assertNotEqual(other.headers["ETag"], etag)

    def test_key_passes_the_cache(self):
        self.site.request("GET", PICTURE % 88)
        before = self.total("imfd_requests_total", route=ROUTE)
        answer = self.site.request("GET", PICTURE % 88, authorization="Bearer x")
        self.assertEqual(answer.status, 200)
        self.assertNotEqual(answer.headers.get("X-Cache"), "HIT")
        self.assertEqual(self.total("imfd_requests_total", route=ROUTE) - before, 1)

    def test_events_arrive_one_by_one(self):
        """More pictures than a batch: the first ones must be here while later ones are drawn."""
        connection = self.site.connect()
        start = time.monotonic()
        connection.request("POST", "/v1/generate", json.dumps({"class": 3, "n": 64, "seed": 9, "steps": 8}),
                           {"Content-Type": "application/json", "Accept": "text/event-stream"})
        response = connection.getresponse()
        arrived = []
        for line in iter(response.readline, b""):
            if line.startswith(b"event: image") or line.startswith(b"event:image"):
                arrived.append(time.monotonic() - start)
        connection.close()
        self.assertEqual(len(arrived), 64)
        print("%s: first event after %.0f ms, last after %.0f ms" %
              (KIND, arrived[0] * 1e3, arrived[-1] * 1e3))
        self.assertLess(arrived[0], arrived[-1] * 0.6)
        gaps = sum(1 for a, b in zip(arrived, arrived[1:]) if b - a > 0.02)
        self.assertGreaterEqual(gaps, 4, arrived)

    def test_abort_reaches_imfd(self):
        before = self.total("imfd_cancelled_total")
        s = socket.create_connection(("127.0.0.1", self.site.port))
        body = json.dumps({"class": 1, "n": 64, "steps": 64}).encode()
        s.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body) + body)
        s.settimeout(0.5)
        try:
            self.fail(s.recv(300))
        except TimeoutError:
            pass
        wait_for("the request to run", lambda: self.total("imfd_queue_images") > 0)
        s.close()
        wait_for("imfd to notice", lambda: self.total("imfd_cancelled_total") > before, 5)
        wait_for("the work to be dropped", lambda: self.total("imfd_queue_images") == 0, 5)
        self.assertTrue(any(r.metric("imfd_requests_total", code="499") > 0 for r in self.replicas))

    def test_prefix_and_forwarded(self):
        answer = self.site.request("POST", "/imfd/v1/images/generations",
                                   {"prompt": "207", "response_format": "url"}, tls=True,
                                   x_forwarded_for="6.6.6.6", x_forwarded_prefix="/evil",
                                   x_forwarded_proto="gopher")
        self.assertEqual(answer.status, 200, answer.body)
        url = answer.json()["data"][0]["url"]
        base = "https://localhost:%d" % self.site.tls_port
        self.assertTrue(url.startswith(base + "/imfd/v1/images/"), url)
        picture = self.site.request("GET", url[len(base):], tls=True)
        self.assertEqual((picture.status, picture.body[:4]), (200, b"\x89PNG"))
        plain = self.site.request("POST", "/v1/images/generations",
                                  {"prompt": "207", "response_format": "url"}, x_forwarded_prefix="/evil")
        self.assertTrue(plain.json()["data"][0]["url"].startswith(
            "http://127.0.0.1:%d/v1/images/" % self.site.port), plain.body)
        logs = "".join(r.log() for r in self.replicas)
        self.assertNotIn("6.6.6.6", logs)
        self.assertIn("127.0.0.1", logs)

    def test_body_limit_and_hidden_metrics(self):
        answer = self.site.request("POST", "/v1/generate", b'{"class":1,"x":"' + b"y" * 70000 + b'"}')
        self.assertEqual(answer.status, 413)
        self.assertEqual(sorted(answer.json()["error"]), ["code", "message", "param", "type"])
        self.assertEqual(self.site.request("GET", "/metrics").status, 404)
        self.assertEqual(self.site.request("GET", "/imfd/metrics").status, 404)
        self.assertEqual(self.site.request("POST", "/v1/generate", {"class": 5000}).status, 400)


class Restart(ProxyTest):
    def test_kill(self):
        """Only what was in flight on the killed replica may fail."""
        load = Load(self.site, 12)
        in_flight = 0
        for replica in self.replicas:
            load.more(40)
            in_flight += int(replica.metric("imfd_requests_running")) + 12
            replica.kill()
            load.more(60)
            replica.start()
            load.more(40)
        results = load.stop()
        failed = sum(n for result, n in results.items() if result != 200)
        print("%s: three kills under load: %s" % (KIND, dict(results)))
        # A replica has at most all 12 clients' requests; a failure is one of those, at the kill.
        self.assertLessEqual(failed, in_flight)
        self.assertGreater(results[200], 400)
        self.assertLessEqual(failed, 3 * 12)

    def test_rolling(self):
        """SIGTERM and start again, one after the other, twice: nothing fails."""
        load = Load(self.site, 12)
        for replica in self.replicas * 2:
            load.more(40)
            replica.drain()
            load.more(20)
            replica.start()
            wait_for("it to be asked again", lambda r=replica: r.metric("imfd_images_total") > 0)
        load.more(40)
        results = load.stop()
        print("%s: six drains under load: %s" % (KIND, dict(results)))
        self.assertEqual(set(results), {200}, load.errors[:5])


class Errors(ProxyTest):
    """Errors of imfd keep their status and their text; the proxy's own have a status and a text that agree."""
    timeout = "200ms"

    def test_of_imfd(self):
        for status, code, method, path, body in [
                (404, "class_not_found", "GET", "/v1/images/fake/5000/1.png", None),
                (404, "not_found", "GET", "/v1/nothing", None),
                (400, "unknown_class", "POST", "/v1/generate", {"class": 5000}),
                (405, "method_not_allowed", "GET", "/v1/generate", None)]:
            with self.subTest(path):
                answer = self.site.request(method, path, body)
                self.assertEqual((answer.status, answer.json()["error"]["code"]), (status, code))

    def test_replica_too_slow(self):
        # 64 evaluations of 8 ms, and no byte before the last one.
        answer = self.site.request("POST", "/v1/generate", {"class": 1, "n": 64, "steps": 64})
        self.assertEqual((answer.status, answer.json()["error"]["code"]), (504, "deadline_exceeded"))

    def test_no_replica(self):
        for replica in self.replicas:
            replica.kill()
        try:
            # Until then a request may meet a kept connection whose replica has just died.
            wait_for("the proxy to know", lambda: self.status_of("/readyz") == 503)
            for path in ("/v1/models", PICTURE % 1):
                answer = self.site.request("GET", path)
                self.assertEqual((answer.status, answer.json()["error"]["code"]), (503, "no_replica"))
                self.assertEqual(answer.headers["Retry-After"], "1")
                self.assertEqual(answer.headers["Content-Type"], "application/json")
        finally:
            for replica in self.replicas:
                replica.start()
            wait_for("the proxy", self.answers)


class Rate(ProxyTest):
    rate = None  # the file's own

    def test_limited(self):
        time.sleep(2)
        statuses = [self.site.request("GET", "/v1/models") for _ in range(150)]
        refused = [a for a in statuses if a.status == 429]
        self.assertGreater(len(refused), 20)
        self.assertEqual(refused[0].json()["error"]["code"], "rate_limited")
        self.assertEqual(refused[0].headers["Retry-After"], "1")
        self.assertEqual({a.status for a in statuses}, {200, 429})


if __name__ == "__main__":
    KIND = sys.argv[1]
    need(KIND, "openssl")
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:], verbosity=2)

"""What pages of other origins may do here, the names this server goes by, and who counts as one client."""
import gzip
import json
import unittest

from imfd_server import Server, ServerTest, post_bytes, read_reply

BODY = b'{"class":1,"seed":1}'


class MediaTypes(ServerTest):
    """A page that was not asked for leave can send a POST without a type, or as text or a form."""

    def test_bodies(self):
        cases = [
            ({}, BODY, 415), ({"Content-Type": "text/plain"}, BODY, 415), ({"Content-Type": ""}, BODY, 415),
            ({"Content-Type": "application/x-www-form-urlencoded"}, BODY, 415),
            ({"Content-Type": "application/jsonx"}, BODY, 415),
            ({"Content-Type": "application/json"}, BODY, 200),
            ({"Content-Type": "Application/JSON; charset=utf-8"}, BODY, 200),
            ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, gzip.compress(BODY), 415),
            ({"Content-Type": "application/json", "Content-Encoding": "br"}, BODY, 415),
            ({"Content-Type": "application/json", "Content-Encoding": "identity"}, BODY, 200),
        ]
        for path in ("/v1/generate", "/v1/images/generations"):
            for headers, body, status in cases:
                with self.subTest(path=path, headers=headers), self.server.connect() as s:
                    body = json.dumps({"prompt": "1", "seed": 1}).encode() if "images" in path and status == 200 else body
                    fields = "".join("%s: %s\r\n" % h for h in headers.items())
                    s.sendall(("POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n"
                               % (path, fields, len(body))).encode() + body)
                    reply = read_reply(s.makefile("rb"))
                    self.assertEqual(reply.status, status)
                    if status == 415:
                        self.assertEqual(reply.error()["code"], "unsupported_media_type")


class CrossSite(unittest.TestCase):
    PATH = "/v1/images/fake/1/%d.png"

    def statuses(self, server, seeds, headers):
        return [server.request("GET", self.PATH % seed, headers=headers).status for seed in seeds]

    def test_pictures_of_other_sites(self):
        with Server("--cors-origins", "https://a.example") as server:
            self.assertEqual(self.statuses(server, [1], {}), [200])
            other = {"Sec-Fetch-Site": "cross-site"}
            reply = server.request("GET", self.PATH % 2, headers=other)
            self.assertEqual((reply.status, reply.error()["code"]), (403, "cross_site"))
            self.assertEqual(reply.headers["Cache-Control"], "no-store")
            self.assertEqual(self.statuses(server, [1], other), [200])  # out of the cache: no work
            self.assertEqual(server.request("HEAD", self.PATH % 2, headers=other).status, 200)
            for site in ("same-origin", "same-site", "none"):
                self.assertEqual(self.statuses(server, [3], {"Sec-Fetch-Site": site}), [200])
            self.assertEqual(self.statuses(server, [4], dict(other, Origin="https://a.example")), [200])
            self.assertEqual(self.statuses(server, [5], dict(other, Origin="https://b.example")), [403])
            self.assertEqual(self.statuses(server, [6], dict(other, Referer="https://a.example/x?y")), [200])
            self.assertEqual(self.statuses(server, [7], dict(other, Referer="https://a.example.b/x")), [403])
            self.assertEqual(self.statuses(server, [8], dict(other, **{"Sec-Fetch-User": "?1"})), [200])
            self.assertEqual(server.metric("imfd_images_total"), 5)
        with Server("--cross-site", "allow") as server:
            self.assertEqual(self.statuses(server, [1], other), [200])
        with Server("--cors-origins", "*") as server:
            self.assertEqual(self.statuses(server, [1], other), [200])

    def test_preflights(self):
        ask = {"Access-Control-Request-Method": "POST",
               "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang, x-stainless-retry-count"}
        with Server("--cors-origins", "https://a.example") as server:
            reply = server.request("OPTIONS", "/v1/images/generations", headers=dict(ask, Origin="https://a.example"))
            self.assertEqual(reply.status, 204)
            self.assertEqual(reply.headers["Access-Control-Allow-Origin"], "https://a.example")
            self.assertEqual(reply.headers["Access-Control-Allow-Headers"], ask["Access-Control-Request-Headers"])
            self.assertIn("POST", reply.headers["Access-Control-Allow-Methods"])
            reply = server.request("OPTIONS", "/v1/generate", headers=dict(ask, Origin="https://b.example"))
            for name in ("Origin", "Headers", "Methods"):
                self.assertNotIn("Access-Control-Allow-" + name, reply.headers)
            odd = {"Access-Control-Request-Method": "POST", "Origin": "https://a.example",
                   "Access-Control-Request-Headers": "x;y"}
            reply = server.request("OPTIONS", "/v1/generate", headers=odd)
            self.assertNotIn("x;y", reply.headers["Access-Control-Allow-Headers"])


class Hosts(unittest.TestCase):
    def test_allowed_hosts(self):
        with Server("--allowed-hosts", "images.example,[::1],local:81", "--trusted-proxies", "127.0.0.1") as server:
            for host, status in (("images.example", 200), ("IMAGES.example:8080", 200), ("evil.example", 403),
                                 ("images.example.evil", 403), ("ximages.example", 403), ("[::1]:80", 200),
                                 ("local:81", 200), ("local", 403), ("local:811", 403)):
                with self.subTest(host):
                    reply = server.request("GET", "/v1/models", headers={"Host": host})
                    self.assertEqual(reply.status, status)
                    if status == 403:
                        self.assertEqual(reply.error()["code"], "host_not_allowed")
            self.assertEqual(server.request("GET", "/livez", headers={"Host": "10.0.0.7:8080"}).status, 200)
            for forwarded, status in (("images.example", 200), ("evil.example", 403)):
                headers = {"Host": "upstream", "X-Forwarded-Host": forwarded}
                self.assertEqual(server.request("GET", "/v1/models", headers=headers).status, status)
            with server.connect() as s:  # the target's authority counts, not Host
                s.sendall(b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: images.example\r\n\r\n")
                self.assertEqual(read_reply(s.makefile("rb")).status, 403)


class OneClient(unittest.TestCase):
    def test_spellings_of_an_address(self):
        """Limits per client hold however its address is written, and for all addresses of an IPv6 /64."""
        for first, second, same in (("192.0.2.1", "::ffff:192.0.2.1", True), ("192.0.2.1", "192.0.2.2", False),
                                    ("2001:db8::1", "2001:DB8:0:0:0:0:0:0001", True),
                                    ("2001:db8::1", "2001:db8::ffff:2", True),
                                    ("2001:db8::1", "2001:db8:0:1::1", False)):
            with self.subTest((first, second)), Server(
                    "--max-per-address", "1", "--trusted-proxies", "127.0.0.1",
                    device="fake:step_us=200000") as server, server.connect() as one, server.connect() as two:
                one.sendall(post_bytes({"class": 1, "seed": 1, "steps": 3},
                                       "X-Forwarded-For: %s\r\nAccept: text/event-stream\r\n" % first))
                self.assertIn(b"200", one.recv(12))
                two.sendall(post_bytes({"class": 1, "seed": 2}, "X-Forwarded-For: %s\r\n" % second))
                self.assertEqual(read_reply(two.makefile("rb")).status, 429 if same else 200)


if __name__ == "__main__":
    unittest.main()

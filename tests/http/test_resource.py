"""GET and HEAD: the picture as a resource, models, classes, health, metrics, the page."""
import gzip
import re
import unittest

from imfd_server import Server, ServerTest

URL = "/v1/images/fake/207/42.png?steps=1&omega=8&t_min=0.4&t_max=0.6"


class Resource(ServerTest):
    def test_etag_before_computing(self):
        before = self.server.metric("imfd_network_evaluations_total")
        head = self.server.request("HEAD", "/v1/images/fake/1/1.png")
        self.assertEqual((head.status, head.body), (200, b""))
        etag = head.headers["ETag"]
        self.assertRegex(etag, r'^"[0-9a-f]{32}"$')
        for value in (etag, "*", '"x", ' + etag, "W/" + etag):
            r = self.server.get("/v1/images/fake/1/1.png", if_none_match=value)
            self.assertEqual((r.status, r.body, r.headers["ETag"]), (304, b"", etag))
        self.assertEqual(self.server.metric("imfd_network_evaluations_total"), before)
        r = self.server.get("/v1/images/fake/1/1.png", if_none_match='"x"')
        self.assertEqual((r.status, r.headers["ETag"]), (200, etag))
        self.assertEqual(self.server.metric("imfd_network_evaluations_total"), before + 1)

    def test_headers(self):
        r = self.server.get(URL)
        self.assertEqual(r.headers["Content-Type"], "image/png")
        self.assertEqual(r.headers["Cache-Control"], "public, max-age=31536000, immutable")
        self.assertEqual(r.headers["Content-Disposition"], 'inline; filename="207_42.png"')
        self.assertEqual((r.headers["X-Imfd-Class"], r.headers["X-Imfd-Seed"]), ("207", "42"))
        self.assertIn("queue;dur=", r.headers["Server-Timing"])
        again = self.server.get(URL)
        self.assertEqual((again.body, again.headers["ETag"]), (r.body, r.headers["ETag"]))
        head = self.server.request("HEAD", URL)
        self.assertEqual(int(head.headers["Content-Length"]), len(r.body))

    def test_one_picture_one_tag(self):
        """Other spellings of the same picture have its tag; other pictures have another."""
        same = ["/v1/images/fake/n02099601/42.png?omega=8.0&steps=1&t_max=0.6&t_min=0.4",
                "/v1/images/fake/golden%20retriever/42.png?cfg_scale=8&t_min=.4&t_max=6e-1&",
                "/v1/images/fake/Golden_Retriever/42.png?guidance_scale=8&t_min=0.4&t_max=0.6"]
        other = ["/v1/images/fake/208/42.png?steps=1&omega=8&t_min=0.4&t_max=0.6",
                 URL.replace("42", "43"), URL.replace("steps=1", "steps=2"), URL.replace("=8", "=9"),
                 URL.replace("0.4", "0.5"), URL.replace("0.6", "0.7")]
        tag = self.server.request("HEAD", URL).headers["ETag"]
        for url in same:
            self.assertEqual(self.server.request("HEAD", url).headers["ETag"], tag, url)
        tags = [self.server.request("HEAD", url).headers["ETag"] for url in other]
        self.assertEqual(len(set(tags + [tag])), len(other) + 1)

    def test_null_class(self):
        r = self.server.get("/v1/images/fake/none/1.png")
        self.assertEqual((r.status, r.headers["X-Imfd-Class"]), (200, "none"))

    def test_errors(self):
        cases = [("/v1/images/nope/1/1.png", 404, "model"), ("/v1/images/fake/1000/1.png", 404, "class"),
                 ("/v1/images/fake/dragon/1.png", 404, "class"), ("/v1/images/fake/crane/1.png", 400, "class"),
                 ("/v1/images/fake/random/1.png", 404, "class"), ("/v1/images/fake/1/x.png", 400, "seed"),
                 ("/v1/images/fake/1/-1.png", 400, "seed"), ("/v1/images/fake/1/01.png", 400, "seed"),
                 ("/v1/images/fake/1/9007199254740992.png", 400, "seed"),
                 ("/v1/images/fake/1/1.gif", 404, "seed"), ("/v1/images/fake/1/%00.png", 404, None),
                 ("/v1/images/fake/%zz/1.png", 404, None), ("/v1/images/fake/" + "a" * 300 + "/1.png", 404, None),
                 ("/v1/images/fake/1/1.png?steps=0", 400, "steps"), ("/v1/images/fake/1/1.png?steps=0x1", 400, "steps"),
                 ("/v1/images/fake/1/1.png?omega=inf", 400, "omega"), ("/v1/images/fake/1/1.png?omega=nan", 400, "omega"),
                 ("/v1/images/fake/1/1.png?omega=", 400, "omega"), ("/v1/images/fake/1/1.png?omega=2&omega=3", 400, "omega"),
                 ("/v1/images/fake/1/1.png?t_min=0.9&t_max=0.1", 400, "t_min"),
                 ("/v1/images/fake/1/1.png?n=2", 400, "n"), ("/v1/images/fake/1/1.png?%ff%=2", 400, None)]
        for path, status, param in cases:
            with self.subTest(path=path[:80]):
                r = self.server.get(path)
                self.assertEqual((r.status, r.error()["param"]), (status, param), r.body)

    def test_models(self):
        v = self.server.get("/v1/models").json()
        self.assertEqual(v["object"], "list")
        [model] = v["data"]
        self.assertEqual((model["id"], model["object"]), ("fake", "model"))
        for key in ("size", "classes", "defaults", "decoder", "precision", "device", "fingerprint",
                    "max_steps"):
            self.assertIn(key, model["imfd"])
        self.assertEqual(self.server.get("/v1/models/fake").json(), model)

    def test_classes(self):
        every = self.server.get("/v1/classes").json()["data"]
        self.assertEqual([c["index"] for c in every], list(range(1000)))
        for index, word in [(207, "golden retriever"), (360, "otter"), (387, "lesser panda"),
                            (974, "geyser"), (88, "macaw"), (979, "valley"), (417, "balloon"),
                            (279, "Arctic fox")]:
            self.assertEqual(every[index]["name"], word)
            self.assertEqual(self.server.get("/v1/classes/%d" % index).json(), every[index])
        self.assertEqual(every[207]["wordnet_id"], "n02099601")
        found = self.server.get("/v1/classes?q=RETRIEV&limit=3").json()["data"]
        self.assertEqual(len(found), 3)
        self.assertTrue(all("retriev" in " ".join(c["names"]) for c in found))
        self.assertEqual(self.server.get("/v1/classes?q=red_panda").json()["data"][0]["index"], 387)
        self.assertEqual(self.server.get("/v1/classes?q=zzzz").json()["data"], [])
        self.assertEqual(self.server.get("/v1/classes?limit=0").error()["param"], "limit")
        self.assertEqual(self.server.get("/v1/classes?x=0").error()["param"], "x")
        self.assertEqual(self.server.get("/v1/classes/red%20panda").json()["index"], 387)

    def test_health(self):
        self.assertEqual(self.server.get("/livez").json(), {"status": "live"})
        self.assertEqual(self.server.get("/readyz").json(), {"status": "ready"})
        self.assertEqual(self.server.get("/health").json(), {"status": "ready", "models": {"fake": "ready"}})

    def test_metrics_text(self):
        r = self.server.get("/metrics")
        self.assertTrue(r.headers["Content-Type"].startswith("text/plain; version=0.0.4"))
        text = r.body.decode()
        types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
        self.assertEqual(len(types), len(re.findall(r"^# TYPE ", text, re.M)), "a type line is repeated")
        for name in ("build_info model_info ready requests_total request_duration_seconds "
                     "queue_wait_seconds queue_images queue_capacity_images requests_running "
                     "rejected_total cancelled_total images_total batches_total batch_size "
                     "stage_duration_seconds network_evaluations_total engine_busy_seconds_total "
                     "coalesced_total cache_hits_total cache_misses_total cache_bytes connections "
                     "device_memory_bytes").split():
            self.assertIn("imfd_" + name, types)
        self.assertIn("process_resident_memory_bytes", types)
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            self.assertRegex(line, r'^[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [-+\d.einfNa]+$')
            name = re.match(r"\w+", line)[0]
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            self.assertTrue(name in types or types.get(base) == "histogram", line)

    def test_page(self):
        r = self.server.get("/")
        self.assertEqual((r.status, r.headers["Content-Type"]), (200, "text/html; charset=utf-8"))
        csp = r.headers["Content-Security-Policy"]
        self.assertIn("default-src 'none'", csp)
        self.assertNotIn("unsafe", csp)
        self.assertEqual(r.headers["X-Content-Type-Options"], "nosniff")
        again = self.server.get("/", if_none_match=r.headers["ETag"])
        self.assertEqual((again.status, again.body), (304, b""))
        self.assertEqual(self.server.get("/web/index.html").body, r.body)

    def test_compressed(self):
        """The page's files and /openapi.json are gzipped for those who take that, under a tag of their own."""
        for path in ("/", "/web/style.css", "/openapi.json"):
            plain = self.server.get(path)
            self.assertNotIn("Content-Encoding", plain.headers)
            packed = self.server.get(path, accept_encoding="br, gzip;q=0.8")
            self.assertEqual((packed.status, packed.headers["Content-Encoding"]), (200, "gzip"))
            self.assertEqual(gzip.decompress(packed.body), plain.body)
            self.assertLess(len(packed.body), 0.5 * len(plain.body))
            self.assertNotEqual(packed.headers["ETag"], plain.headers["ETag"])
            for r in (plain, packed):
                self.assertIn("Accept-Encoding", r.headers["Vary"])
            for other in ("identity", "gzip;q=0", "br", "*;q=0"):
                self.assertEqual(self.server.get(path, accept_encoding=other).body, plain.body)
            again = self.server.get(path, accept_encoding="*", if_none_match=packed.headers["ETag"])
            self.assertEqual((again.status, again.headers["ETag"]), (304, packed.headers["ETag"]))
            again = self.server.get(path, if_none_match=packed.headers["ETag"])
            self.assertEqual((again.status, again.body), (200, plain.body))

    def test_openapi(self):
        v = self.server.get("/openapi.json").json()
        self.assertTrue(v["openapi"].startswith("3.1"))
        for path in ("/v1/generate", "/v1/images/generations", "/v1/images/{model}/{class}/{seed}.{format}",
                     "/v1/models", "/v1/models/{id}", "/v1/classes", "/v1/classes/{id}", "/livez",
                     "/readyz", "/health", "/metrics", "/version", "/openapi.json"):
            self.assertIn(path, v["paths"])


class OtherClasses(unittest.TestCase):
    def test_count(self):
        with Server(device="fake:classes=10") as server:
            self.assertEqual(len(server.get("/v1/classes").json()["data"]), 10)
            self.assertEqual(server.generate({"class": 9}).status, 200)
            self.assertEqual(server.generate({"class": 10}).status, 400)
            self.assertEqual(server.generate({"class": "class 3"}).json()["data"][0]["class"], 3)


if __name__ == "__main__":
    unittest.main()

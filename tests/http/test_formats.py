"""PNG, JPEG and WebP: how a request chooses, the bytes, their metadata and their entity tags."""
import base64
import json
import re
import struct
import unittest

from imfd_server import Server, ServerTest

ASK = {"class": 207, "seed": 42, "steps": 1, "omega": 8, "t_min": 0.4, "t_max": 0.6}
QUERY = "?steps=1&omega=8&t_min=0.4&t_max=0.6"
MAGIC = {"png": rb"\x89PNG\r\n\x1a\n", "jpeg": rb"\xff\xd8\xff\xe0", "webp": rb"RIFF....WEBPVP8X"}
SUFFIX = {"png": "png", "jpeg": "jpg", "webp": "webp"}
SOURCE = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def kind(data):
    [found] = [name for name, magic in MAGIC.items() if re.match(magic, data, re.S)]
    return found


class Choice(ServerTest):
    device = "fake:size=64"

    def check(self, accept, want, **fields):
        r = self.server.generate(dict(ASK, **fields), accept=accept)
        self.assertEqual((r.status, r.headers["Content-Type"]), (200, want), r.body[:200])
        if want.startswith("image/"):
            self.assertEqual("image/" + kind(r.body), want)
        return r

    def test_accept(self):
        for name in MAGIC:
            r = self.check("image/" + name, "image/" + name)
            self.assertEqual(r.headers["Content-Disposition"], 'inline; filename="207_42.%s"' % SUFFIX[name])
        self.check("image/jpeg, image/webp", "image/jpeg")
        self.check("image/jpeg;q=0.5, image/webp", "image/webp")
        self.check("image/jpeg;q=0.5, image/webp;q=0.4, */*;q=0.1", "image/jpeg")
        self.check("image/*", "image/png")
        self.check("image/*, image/png;q=0", "image/jpeg")
        self.check("image/*;q=0.8, image/webp;q=0.2, image/jpeg;q=0.1", "image/png")
        self.check("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "image/webp")
        self.check("*/*", "application/json")
        r = self.server.generate(ASK, accept="image/avif")
        self.assertEqual((r.status, r.error()["code"]), (406, "not_acceptable"))

    def test_output_format(self):
        """Names the picture of every form; Accept then chooses among the forms that are left."""
        for name in MAGIC:
            v = self.check("application/json", "application/json", output_format=name).json()
            self.assertEqual(kind(base64.b64decode(v["data"][0]["b64_json"])), name)
            self.check("image/*", "image/" + name, output_format=name)
            self.check("image/png;q=0.1,image/jpeg;q=0.1,image/webp;q=0.1", "image/" + name, output_format=name)
        r = self.server.generate(dict(ASK, output_format="webp"), accept="image/png")
        self.assertEqual((r.status, r.error()["param"]), (406, "output_format"))
        r = self.server.generate(dict(ASK, n=2), accept="image/webp")
        self.assertEqual((r.status, r.error()["param"]), (406, "n"))

    def test_compression(self):
        """0 to 100, OpenAI's name for the quality; PNG loses nothing and has none."""
        for name in ("jpeg", "webp"):
            sizes = [len(self.check("image/*", "image/" + name, output_format=name, output_compression=q).body)
                     for q in (0, 50, 90, 100)]
            self.assertEqual(sizes, sorted(sizes))
            self.assertEqual(len(set(sizes)), 4)
            self.assertEqual(sizes[3], len(self.check("image/" + name, "image/" + name).body))
        pngs = {self.check("image/png", "image/png", output_compression=q).body for q in (0, 100)}
        self.assertEqual(len(pngs), 1)
        for bad in (-1, 101, 1.5, "90", True):
            r = self.server.generate(dict(ASK, output_format="jpeg", output_compression=bad))
            self.assertEqual((r.status, r.error()["param"]), (400, "output_compression"))

    def test_forms(self):
        for name in MAGIC:
            r = self.server.generate(dict(ASK, n=3, output_format=name), accept="multipart/mixed")
            self.assertEqual(r.body.count(b"Content-Type: image/%s\r\n" % name.encode()), 3)
            self.assertEqual(r.body.count(b'.%s"\r\n' % SUFFIX[name].encode()), 3)
            r = self.server.generate(dict(ASK, n=2, output_format=name), accept="text/event-stream")
            for data in re.findall(rb'"b64_json":"([^"]*)"', r.body):
                self.assertEqual(kind(base64.b64decode(data)), name)
            v = self.server.post("/v1/images/generations", {"prompt": "otter", "output_format": name}).json()
            self.assertEqual(v["output_format"], name)
            self.assertEqual(kind(base64.b64decode(v["data"][0]["b64_json"])), name)
            v = self.server.post("/v1/images/generations", {
                "prompt": "otter", "output_format": name, "output_compression": 70, "response_format": "url"}).json()
            r = self.server.get(re.sub(r"^http://[^/]*", "", v["data"][0]["url"]))
            self.assertEqual((r.status, r.headers["Content-Type"]), (200, "image/" + name))


class Files(ServerTest):
    device = "fake:size=64"

    def test_resource(self):
        """One address, one tag, the same bytes as the call gives; each format and quality its own."""
        tags = set()
        for name, suffix in SUFFIX.items():
            url = "/v1/images/fake/207/42.%s%s" % (suffix, QUERY)
            r = self.server.get(url)
            self.assertEqual((r.status, r.headers["Content-Type"]), (200, "image/" + name))
            self.assertEqual(r.body, self.server.generate(ASK, accept="image/" + name).body)
            head = self.server.request("HEAD", url)
            self.assertEqual((head.headers["ETag"], int(head.headers["Content-Length"])),
                             (r.headers["ETag"], len(r.body)))
            again = self.server.get(url, if_none_match=r.headers["ETag"])
            self.assertEqual((again.status, again.body), (304, b""))
            tags.add(r.headers["ETag"])
            other = self.server.get(url + "&output_compression=60")
            self.assertEqual(other.headers["ETag"] == r.headers["ETag"], name == "png")
            tags.add(other.headers["ETag"])
        self.assertEqual(len(tags), 5)

    def test_bad_resource(self):
        for path, status, param in (("1.gif", 404, "seed"), ("1.jpeg", 404, "seed"), ("1.JPG", 404, "seed"),
                                    ("1.jpg?output_compression=101", 400, "output_compression"),
                                    ("1.jpg?output_compression=", 400, "output_compression"),
                                    ("1.jpg?output_compression=1e1", 400, "output_compression"),
                                    ("1.jpg?output_compression=1&output_compression=1", 400, "output_compression"),
                                    ("1jpg", 400, "seed"), (".webp", 400, "seed")):
            r = self.server.get("/v1/images/fake/1/" + path)
            self.assertEqual((r.status, r.error()["param"]), (status, param), path)

    def test_metadata(self):
        for name in MAGIC:
            whole = self.server.generate(ASK, accept="image/" + name).body
            plain = self.server.generate(dict(ASK, embed_metadata=False), accept="image/" + name).body
            for text in (SOURCE, b"golden retriever\nSteps: 1, Sampler: iMF", b'"class":207'):
                self.assertIn(text, whole)
                self.assertNotIn(text, plain)
            self.assertEqual(kind(plain), name)
            if name == "webp":
                for data, flags in ((whole, 12), (plain, 0)):
                    self.assertEqual(struct.unpack("<I", data[4:8])[0], len(data) - 8)
                    self.assertEqual(data[20], flags)

    def test_cached_apart(self):
        """A format's bytes are never another's, and the second time comes out of the cache."""
        url = "/v1/images/fake/3/77."
        first = {s: self.server.get(url + s).body for s in SUFFIX.values()}
        hits = self.server.metric("imfd_cache_hits_total")
        self.assertEqual({s: self.server.get(url + s).body for s in SUFFIX.values()}, first)
        self.assertEqual(self.server.metric("imfd_cache_hits_total"), hits + 3)
        self.assertEqual(len(set(first.values())), 3)


class Deterministic(unittest.TestCase):
    def test_servers_agree(self):
        """Two servers, nothing cached, other pictures in between: the same bytes."""
        files = []
        for order in (1, -1):
            with Server("--cache-bytes", "0", device="fake:size=48") as server:
                got = {}
                for name in list(MAGIC)[::order]:
                    for quality in (100, 30)[::order]:
                        r = server.generate(dict(ASK, output_format=name, output_compression=quality), accept="image/*")
                        got[name, quality] = r.body
                files.append(got)
        self.assertEqual(files[0], files[1])

    def test_json_reports_the_same(self):
        with Server(device="fake:size=48") as server:
            text = json.dumps(dict(ASK, output_format="jpeg"))
            bodies = {server.post("/v1/generate", text).json()["data"][0]["b64_json"] for _ in range(2)}
            self.assertEqual(len(bodies), 1)


if __name__ == "__main__":
    unittest.main()

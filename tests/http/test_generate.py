"""POST /v1/generate and the OpenAI call: reply forms, negotiation, every check of the body."""
import ast
import base64
import json
import re
import struct
import unittest
import zlib

from imfd_server import Server, ServerTest


def png_chunks(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n", data[:8]
    at, chunks = 8, []
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        crc = struct.unpack(">I", data[at + 8 + size:at + 12 + size])[0]
        assert crc == zlib.crc32(kind + body)
        chunks.append((kind.decode(), body))
        at += 12 + size
    assert chunks[-1][0] == "IEND"
    return chunks


def texts(data):
    return dict(body.split(b"\0", 1) for kind, body in png_chunks(data) if kind == "tEXt")


def unfilter(raw, width, height):
    """PNG scan lines to pixels, 3 bytes each."""
    stride, out, before = width * 3, bytearray(), bytearray(width * 3)
    for y in range(height):
        kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for i in range(stride):
            a = line[i - 3] if i >= 3 else 0
            b, c = before[i], before[i - 3] if i >= 3 else 0
            if kind == 1:
                line[i] = (line[i] + a) & 255
            elif kind == 2:
                line[i] = (line[i] + b) & 255
            elif kind == 3:
                line[i] = (line[i] + (a + b) // 2) & 255
            elif kind == 4:
                p = a + b - c
                pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
                line[i] = (line[i] + (a if pa <= pb and pa <= pc else b if pb <= pc else c)) & 255
        out += line
        before = line
    return bytes(out)


def events(r):
    """(event, data) of a server-sent stream, comments left out."""
    for block in r.body.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            fields = dict(line.split(": ", 1) for line in lines)
            yield fields["event"], json.loads(fields["data"])


class Forms(ServerTest):
    device = "fake:step_us=1000"

    def test_json(self):
        r = self.server.generate({"class": 207, "seed": 42, "steps": 2, "omega": 8, "t_min": 0.42,
                                  "t_max": 0.62})
        self.assertEqual(r.status, 200)
        self.assertEqual(r.headers["Content-Type"], "application/json")
        self.assertEqual(r.headers["Cache-Control"], "no-store")
        self.assertEqual(int(r.headers["Content-Length"]), len(r.body))
        self.assertRegex(r.headers["Server-Timing"],
                         r"^queue;dur=[\d.]+, denoise;dur=[\d.]+, decode;dur=[\d.]+, encode;dur=[\d.]+$")
        v = r.json()
        self.assertEqual(sorted(v), ["created", "data", "id", "imfd", "model"])
        self.assertEqual(v["model"], "fake")
        imfd = v["imfd"]
        self.assertEqual((imfd["steps"], imfd["omega"], imfd["t_min"], imfd["t_max"]),
                         (2, 8, 0.42, 0.62))
        self.assertEqual(sorted(imfd["timings_ms"]), ["decode", "denoise", "encode", "queue"])
        [item] = v["data"]
        self.assertEqual((item["index"], item["class"], item["class_name"], item["seed"]),
                         (0, 207, "golden retriever", 42))
        png = base64.b64decode(item["b64_json"], validate=True)
        self.assertEqual(struct.unpack(">IIBB", png_chunks(png)[0][1][:10]), (256, 256, 8, 2))

    def test_metadata(self):
        ask = {"class": 207, "seed": 42, "steps": 1, "omega": 8, "t_min": 0.4, "t_max": 0.6}
        png = self.server.generate(ask, accept="image/png").body
        version = self.server.get("/version").json()["version"]
        text = texts(png)
        self.assertEqual(text[b"parameters"].decode(),
                         "golden retriever\nSteps: 1, Sampler: iMF, CFG scale: 8, Seed: 42, "
                         "Size: 256x256, Model: fake, Version: imfd " + version)
        chunk = json.loads(text[b"imfd"])
        self.assertEqual({k: chunk[k] for k in ask}, ask)
        plain = self.server.generate(dict(ask, embed_metadata=False), accept="image/png").body
        self.assertEqual(texts(plain), {})
        pixels = [b for k, b in png_chunks(png) if k == "IDAT"]
        self.assertEqual(pixels, [b for k, b in png_chunks(plain) if k == "IDAT"])
        whole = self.server.generate(dict(ask, embed_metadata=False)).json()["data"][0]["b64_json"]
        self.assertEqual(base64.b64decode(whole), plain)

    def test_many_in_order(self):
        r = self.server.generate({"class": 1, "n": 40, "seed": 7})
        self.assertEqual(r.headers["Transfer-Encoding"], "chunked")
        data = r.json()["data"]
        self.assertEqual([d["index"] for d in data], list(range(40)))
        self.assertEqual([d["seed"] for d in data], list(range(7, 47)))
        self.assertEqual(len({d["b64_json"] for d in data}), 40)

    def test_lists(self):
        r = self.server.generate({"classes": [3, "n02099601", "Red_Panda", "none"],
                                  "seeds": [9, 8, 7, 2**53 - 1]}).json()
        self.assertEqual([(d["class"], d["seed"]) for d in r["data"]],
                         [(3, 9), (207, 8), (387, 7), ("none", 2**53 - 1)])
        self.assertEqual(r["data"][3]["class_name"], "none")

    def test_random(self):
        r = self.server.generate({"class": "random", "n": 8}).json()
        self.assertTrue(all(0 <= d["class"] <= 999 for d in r["data"]))
        self.assertGreater(len({d["class"] for d in r["data"]}), 2)
        other = self.server.generate({"class": "random"}).json()
        self.assertNotEqual(other["data"][0]["seed"], r["data"][0]["seed"])

    def test_same_bytes_in_every_form(self):
        ask = {"class": "otter", "seed": 5, "n": 1}
        png = self.server.generate(ask, accept="image/png")
        self.assertEqual(png.headers["X-Imfd-Seed"], "5")
        self.assertEqual(png.headers["X-Imfd-Class"], "360")
        self.assertEqual(png.headers["Content-Disposition"], 'inline; filename="360_5.png"')
        model = self.server.get("/v1/models/fake").json()
        self.assertEqual(png.headers["X-Imfd-Fingerprint"], model["imfd"]["fingerprint"])
        item = self.server.generate(ask).json()["data"][0]
        self.assertEqual(base64.b64decode(item["b64_json"]), png.body)
        openai = self.server.post("/v1/images/generations", {"prompt": "class: otter", "seed": 5}).json()
        self.assertEqual(base64.b64decode(openai["data"][0]["b64_json"]), png.body)
        self.assertEqual(self.server.get("/v1/images/fake/otter/5.png").body, png.body)

    def test_multipart(self):
        r = self.server.generate({"class": 2, "n": 5, "seed": 1}, accept="multipart/mixed")
        boundary = re.match(r"multipart/mixed; boundary=(\S+)$", r.headers["Content-Type"])[1]
        self.assertEqual(r.headers["X-Accel-Buffering"], "no")
        parts = r.body.split(b"--" + boundary.encode())
        self.assertEqual((parts[0], parts[-1]), (b"", b"--\r\n"))
        seen = set()
        for part in parts[1:-1]:
            head, _, body = part.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().strip().split("\r\n"))
            body = body[:-2]
            self.assertEqual(fields["Content-Type"], "image/png")
            self.assertEqual(int(fields["Content-Length"]), len(body))
            self.assertEqual(int(fields["X-Imfd-Seed"]), 1 + int(fields["X-Imfd-Index"]))
            png_chunks(body)
            seen.add(int(fields["X-Imfd-Index"]))
        self.assertEqual(seen, set(range(5)))

    def test_events(self):
        r = self.server.generate({"class": 2, "n": 3, "seed": 1}, accept="text/event-stream")
        self.assertEqual(r.headers["Content-Type"], "text/event-stream")
        got = list(events(r))
        self.assertEqual([e for e, _ in got], ["image"] * 3 + ["done"])
        self.assertEqual({v["seed"] for e, v in got if e == "image"}, {1, 2, 3})
        self.assertEqual(sorted(got[-1][1]), ["created", "id", "imfd", "model"])

    def test_npy(self):
        r = self.server.generate({"class": 2, "n": 3, "seed": 1}, accept="application/x-npy")
        self.assertEqual(r.body[:8], b"\x93NUMPY\x01\x00")
        size = struct.unpack("<H", r.body[8:10])[0]
        self.assertEqual((10 + size) % 64, 0)
        self.assertEqual(ast.literal_eval(r.body[10:10 + size].decode()),
                         {"descr": "|u1", "fortran_order": False, "shape": (3, 256, 256, 3)})
        self.assertEqual(len(r.body), 10 + size + 3 * 256 * 256 * 3)
        self.assertEqual(r.headers["X-Imfd-Seed"], "1,2,3")
        png = self.server.generate({"class": 2, "seed": 2}, accept="image/png").body
        raw = zlib.decompress(b"".join(b for k, b in png_chunks(png) if k == "IDAT"))
        second = r.body[10 + size + 196608:10 + size + 2 * 196608]
        self.assertTrue(unfilter(raw, 256, 256) == second)

    def test_openai(self):
        r = self.server.post("/v1/images/generations", {
            "prompt": "golden retriever", "n": 2, "size": "256x256", "quality": "hd", "style": "vivid",
            "background": "auto", "moderation": "low", "user": "u", "output_compression": 90,
            "steps": 1, "seed": 3, "omega": 4, "t_min": 0.1, "t_max": 0.9, "model": None})
        v = r.json()
        self.assertEqual([d["seed"] for d in v["data"]], [3, 4])
        self.assertEqual((v["size"], v["output_format"]), ("256x256", "png"))
        self.assertIn("created", v)

    def test_openai_stream(self):
        r = self.server.post("/v1/images/generations", {"prompt": "otter", "n": 2, "stream": True})
        got = list(events(r))
        self.assertEqual([e for e, _ in got], ["image_generation.completed"] * 2)
        for _, v in got:
            for key in ("type", "b64_json", "created_at", "background", "output_format", "quality",
                        "size", "usage"):
                self.assertIn(key, v)
            png_chunks(base64.b64decode(v["b64_json"]))

    def test_openai_url(self):
        r = self.server.post("/v1/images/generations",
                             {"prompt": "otter", "n": 2, "response_format": "url", "seed": 11})
        prefix = "http://127.0.0.1:%d" % self.server.port
        for i, d in enumerate(r.json()["data"]):
            self.assertTrue(d["url"].startswith(prefix + "/v1/images/fake/360/%d.png?" % (11 + i)))
            got = self.server.get(d["url"][len(prefix):])
            png = self.server.generate({"class": 360, "seed": 11 + i}, accept="image/png")
            self.assertEqual(got.body, png.body)

    def test_negotiation(self):
        cases = [
            (None, 1, "application/json"), ("*/*", 1, "application/json"),
            ("image/*", 1, "image/png"), ("image/png, */*", 1, "image/png"),
            ("image/png;q=0.5, application/json", 1, "application/json"),
            ("text/html, application/json;q=0.3, multipart/mixed;q=0.4", 1, "multipart/mixed"),
            ("image/png, application/json;q=0.1", 2, "application/json"),
            ("application/json;q=0, */*", 1, "image/png"), ("IMAGE/PNG", 1, "image/png"),
        ]
        for accept, n, expected in cases:
            with self.subTest(accept=accept):
                headers = {"accept": accept} if accept else {}
                r = self.server.generate({"class": 1, "seed": 1, "n": n}, **headers)
                self.assertEqual(r.headers["Content-Type"].split(";")[0], expected)
        for accept, n in [("text/html", 1), ("image/png", 2), ("image/webp", 2), ("image/avif", 1), ("*/*;q=0", 1)]:
            with self.subTest(accept=accept):
                r = self.server.generate({"class": 1, "n": n}, accept=accept)
                self.assertEqual((r.status, r.error()["code"]), (406, "not_acceptable"))


class Validation(ServerTest):
    flags = ("--max-n", "10", "--max-steps", "20")

    # (body, param, code); the status is 400 unless the code says otherwise
    cases = [
        ("", None, "invalid_json"), ("{", None, "invalid_json"), ("[]", None, "invalid_json"),
        ("null", None, "invalid_json"), ('{"class":1} x', None, "invalid_json"),
        ('{"class":1}\0', None, "invalid_json"), (b'{"class":"\xff"}', None, "invalid_json"),
        ('{"class":01e}', None, "invalid_json"), ("[" * 5000, None, "invalid_json"),
        # What lenient parsers take: numbers, white space, bytes and names that RFC 8259 does not have.
        ('{"class":01}', None, "invalid_json"), ('{"class":-01}', None, "invalid_json"),
        ('{"class":1.}', None, "invalid_json"), ('{"class":.5}', None, "invalid_json"),
        ('{"class":+1}', None, "invalid_json"), ('{"class":1e}', None, "invalid_json"),
        ('{"class":0x1}', None, "invalid_json"), ('{"class":NaN}', None, "invalid_json"),
        ('{"class":Infinity}', None, "invalid_json"), ("{'class':1}", None, "invalid_json"),
        ('{class:1}', None, "invalid_json"), ('{"class":1,}', None, "invalid_json"),
        ('{"class":"a\tb"}', None, "invalid_json"), ('{"class":"a\nb"}', None, "invalid_json"),
        ('{"class":"a\x01b"}', None, "invalid_json"), ('{"class":"\\x41"}', None, "invalid_json"),
        (b'\xef\xbb\xbf{"class":1}', None, "invalid_json"), ('\x0b{"class":1}', None, "invalid_json"),
        ('{"class":1}\xa0', None, "invalid_json"), ('{"class":1}//', None, "invalid_json"),
        ('{"class":"cat\\u0000dog"}', None, "invalid_json"), ('{"class":1,"seed\\u0000x":7}', None, "invalid_json"),
        ('{"class":"\\ud800"}', None, "invalid_json"), (b'{"class":"\xc0\x80"}', None, "invalid_json"),
        (b'{"class":"\xed\xa0\x80"}', None, "invalid_json"), ('{"class":1}{"class":2}', None, "invalid_json"),
        ('{"class":1,"class":2}', "class", "invalid_value"),
        ('{"class":1,"cl\\u0061ss":1}', "class", "invalid_value"),
        ('{"class":1,"model":{"a":1,"a":2}}', "a", "invalid_value"),
        ({"class": "-1"}, "class", "unknown_class"), ({"class": "_1"}, "class", "unknown_class"),
        ({"class": "1-"}, "class", "unknown_class"), ({"class": "-n02123045"}, "class", "unknown_class"),
        ({"class": "+1"}, "class", "unknown_class"), ({"classes": [1, "-1"]}, "classes", "unknown_class"),
        ({}, "class", "invalid_value"), ({"class": None}, "class", "invalid_value"),
        ({"class": True}, "class", "invalid_value"), ({"class": {}}, "class", "invalid_value"),
        ({"class": -1}, "class", "unknown_class"), ({"class": 1000}, "class", "unknown_class"),
        ({"class": 1.5}, "class", "unknown_class"), ({"class": 1e300}, "class", "unknown_class"),
        ({"class": ""}, "class", "unknown_class"), ({"class": "nothing"}, "class", "unknown_class"),
        ({"class": "n99999999"}, "class", "unknown_class"), ({"class": "1000"}, "class", "unknown_class"),
        ({"class": "x" * 3000}, "class", "unknown_class"),
        ({"class": "crane"}, "class", "ambiguous_class"), ({"class": "Panda"}, "class", "ambiguous_class"),
        ({"class": 1, "classes": [1]}, "classes", "invalid_value"),
        ({"classes": []}, "classes", "invalid_value"), ({"classes": 3}, "classes", "invalid_value"),
        ({"classes": [1, None]}, "classes", "invalid_value"),
        ({"classes": [1, "x"]}, "classes", "unknown_class"),
        ({"classes": [1] * 11}, "classes", "invalid_value"),
        ({"classes": [1, 2], "n": 3}, "classes", "invalid_value"),
        ({"class": 1, "n": 0}, "n", "invalid_value"), ({"class": 1, "n": 11}, "n", "invalid_value"),
        ({"class": 1, "n": "2"}, "n", "invalid_value"), ({"class": 1, "n": 1.5}, "n", "invalid_value"),
        ({"class": 1, "seed": -1}, "seed", "invalid_value"),
        ({"class": 1, "seed": 2**53}, "seed", "invalid_value"),
        ({"class": 1, "seed": 2**53 - 1, "n": 2}, "seed", "invalid_value"),
        ({"class": 1, "seed": 0.5}, "seed", "invalid_value"),
        ({"class": 1, "seeds": [1], "seed": 1}, "seeds", "invalid_value"),
        ({"class": 1, "seeds": [1, 2], "n": 1}, "seeds", "invalid_value"),
        ({"class": 1, "seeds": ["1"]}, "seeds", "invalid_value"),
        ({"class": 1, "steps": 0}, "steps", "invalid_value"),
        ({"class": 1, "steps": 21}, "steps", "invalid_value"),
        ({"class": 1, "steps": "1"}, "steps", "invalid_value"),
        ({"class": 1, "omega": 0.99}, "omega", "invalid_value"),
        ('{"class":1,"omega":1e999}', "omega", "invalid_value"),
        ({"class": 1, "guidance_scale": 0}, "guidance_scale", "invalid_value"),
        ({"class": 1, "omega": 2, "cfg_scale": 2}, "cfg_scale", "invalid_value"),
        ({"class": 1, "t_min": -0.1}, "t_min", "invalid_value"),
        ({"class": 1, "t_max": 1.1}, "t_max", "invalid_value"),
        ({"class": 1, "t_min": 0.6, "t_max": 0.5}, "t_min", "invalid_value"),
        ({"class": 1, "timeout_ms": 0}, "timeout_ms", "invalid_value"),
        ({"class": 1, "priority": 10}, "priority", "invalid_value"),
        ({"class": 1, "output_format": "gif"}, "output_format", "invalid_value"),
        ({"class": 1, "output_format": 1}, "output_format", "invalid_value"),
        ({"class": 1, "n": "4"}, "n", "invalid_value"),
        ({"class": 1, "steps": 2, "num_steps": 2}, "num_steps", "invalid_value"),
        ({"class": 1, "num_inference_steps": 0}, "num_inference_steps", "invalid_value"),
        ({"class": 1, "embed_metadata": 1}, "embed_metadata", "invalid_value"),
        ({"class": 1, "klass": 2}, "klass", "unknown_field"),
        ({"class": 1, "a\nb": 2}, "a\nb", "unknown_field"),
        ({"class": 1, "prompt": "x"}, "prompt", "unknown_field"),
        ({"class": 1, "unknown": None}, "unknown", "unknown_field"),
        ({"class": 1, "model": 3}, "model", "invalid_value"),
        ({"class": 1, "model": "nope"}, "model", "model_not_found"),
    ]

    def test_cases(self):
        for body, param, code in self.cases:
            with self.subTest(body=str(body)[:100]):
                r = self.server.generate(body)
                error = r.error()
                self.assertEqual((error["param"], error["code"]), (param, code), error["message"])
                self.assertEqual(r.status, 404 if code == "model_not_found" else 400)

    def test_candidates_are_named(self):
        message = self.server.generate({"class": "crane"}).error()["message"]
        self.assertIn("134", message)
        self.assertIn("517", message)

    def test_accepted(self):
        for body in [{"class": "GOLDEN_retriever"}, {"class": "207"}, {"class": "golden-retriever"},
                     {"class": 1, "n": None, "seed": None, "omega": None, "model": None},
                     {"class": "Arctic fox", "steps": 20}, {"class": 1, "t_min": 0.5, "t_max": 0.5},
                     {"class": 1, "num_inference_steps": 3}, {"class": 1, "num_steps": 3},
                     {"class": 1, "priority": 0, "timeout_ms": 60000, "output_format": "png"}]:
            with self.subTest(body=body):
                self.assertEqual(self.server.generate(body).status, 200)

    def test_openai_cases(self):
        cases = [({}, "prompt"), ({"prompt": "dragon"}, "prompt"), ({"prompt": 7}, "prompt"),
                 ({"prompt": "otter", "size": "512x512"}, "size"), ({"prompt": "otter", "n": 11}, "n"),
                 ({"prompt": "otter", "response_format": "gif"}, "response_format"),
                 ({"prompt": "otter", "response_format": "url", "stream": True}, "response_format"),
                 ({"prompt": "otter", "stream": "yes"}, "stream"),
                 ({"prompt": "otter", "class": 1}, "class")]
        for body, param in cases:
            with self.subTest(body=body):
                r = self.server.post("/v1/images/generations", body)
                self.assertEqual((r.status, r.error()["param"]), (400, param))

    def test_media_type(self):
        r = self.server.generate('{"class":1}', content_type="text/plain")
        self.assertEqual((r.status, r.error()["code"]), (415, "unsupported_media_type"))
        r = self.server.generate('{"class":1}', content_type="application/json; charset=utf-8")
        self.assertEqual(r.status, 200)

    def test_routes(self):
        for path in ("/nothing", "/v1", "/v1/", "/v1/models/", "/v1/models/nope", "/v1/classes/nope",
                     "/v1/images/fake/1", "/web/../conf", "/web/%2e%2e/x", "//", "/livez/"):
            with self.subTest(path=path):
                r = self.server.get(path)
                self.assertEqual(r.status, 404)
                r.error()
        r = self.server.request("DELETE", "/v1/models")
        self.assertEqual((r.status, r.headers["Allow"]), (405, "GET, HEAD, OPTIONS"))
        r.error()
        r = self.server.get("/v1/generate")
        self.assertEqual((r.status, r.headers["Allow"]), (405, "POST, OPTIONS"))
        r = self.server.request("OPTIONS", "/v1/generate")
        self.assertEqual((r.status, r.headers["Allow"]), (204, "POST, OPTIONS"))


class Failures(unittest.TestCase):
    def test_engine_failure(self):
        with Server(device="fake:fail_label=13") as server:
            r = server.generate({"class": 13})
            self.assertEqual((r.status, r.error()["type"]), (500, "engine_error"))
            self.assertEqual(server.get("/readyz").status, 503)
            self.assertEqual(server.get("/livez").status, 200)

    def test_engine_failure_in_events(self):
        with Server(device="fake:fail_label=13") as server:
            r = server.generate({"classes": [13, 13]}, accept="text/event-stream")
            self.assertEqual(r.status, 200)
            self.assertIn(b"event: error\ndata: {\"error\"", r.body)

    def test_loading(self):
        with Server(device="fake:load_ms=1500", wait=False) as server:
            self.assertEqual(server.get("/livez").status, 200)
            self.assertEqual(server.get("/readyz").status, 503)
            r = server.generate({"class": 1})
            self.assertEqual((r.status, r.error()["type"]), (503, "loading"))
            self.assertGreaterEqual(int(r.headers["Retry-After"]), 1)
            self.assertGreaterEqual(int(r.headers["retry-after-ms"]), 1)
            server.wait_log(r"info  ready\n", 20)
            self.assertEqual(server.generate({"class": 1}).status, 200)

    def test_load_failure_stops_the_start(self):
        server = Server(device="fake:fail_load=1", wait=False)
        self.assertEqual(server.wait_exit(), 1)
        server.check_log()

    def test_self_check(self):
        """A model that gives no numbers, one colour, or nothing one could look at is not served."""
        for sick, why in ((1, "not numbers"), (2, "every pixel"), (3, 'has no decoder: name one in the model\'s "decoder"')):
            server = Server(device="fake:sick=%d" % sick, wait=False)
            self.assertEqual(server.wait_exit(), 1)
            self.assertRegex(server.log(), "error model fake: failed: .*" + why)
            server.check_log()


if __name__ == "__main__":
    unittest.main()

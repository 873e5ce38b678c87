"""The Open Inference Protocol v2, byte by byte: routes, forms, and what is refused in the protocol's own form.
(tests/conformance/test_inference_clients.py has its public clients.)"""
import base64
import json
import struct
import unittest

from imfd_server import Server, ServerTest


def tensor(name, values, datatype="INT64", shape=None, **more):
    return dict({"name": name, "datatype": datatype, "shape": shape or [len(values)], "data": values}, **more)


def raw(name, data, datatype, shape):
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}


class Inference(ServerTest):
    device = "fake:size=16"
    flags = ("--max-n", "100", "--aliases", "other=fake")

    def infer(self, body, path="/v2/models/fake/infer", **headers):
        return self.server.post(path, body, **headers)

    def refused(self, r, status, word=""):
        self.assertEqual(r.status, status, r.body[:200])
        self.assertEqual(list(r.json()), ["error"])
        self.assertIsInstance(r.json()["error"], str)
        self.assertIn(word, r.json()["error"])

    def test_json(self):
        r = self.infer({"id": "x", "inputs": [tensor("class", [207, 1]), tensor("seed", [4, 9])]})
        self.assertEqual((r.status, r.headers["Content-Type"]), (200, "application/json"))
        v = r.json()
        self.assertEqual((v["model_name"], v["model_version"], v["id"]), ("fake", "1", "x"))
        image, seed = v["outputs"]
        self.assertEqual((image["name"], image["datatype"], image["shape"]), ("image", "BYTES", [2]))
        self.assertEqual((seed["name"], seed["datatype"], seed["data"]), ("seed", "INT64", [4, 9]))
        one = self.server.generate({"class": 207, "seed": 4}, accept="image/png").body
        self.assertEqual(base64.b64decode(image["data"][0]), one)

    def test_shapes_and_types(self):
        """Nested lists, [n, 1], other number types, names, one value for all."""
        for cls in (tensor("class", [[207], [207]], shape=[2, 1]), tensor("class", [207, 207], "UINT16"),
                    tensor("class", ["golden retriever", "207"], "BYTES")):
            v = self.infer({"inputs": [cls, tensor("seed", [4, 4]), tensor("omega", [3], "FP64")]}).json()
            first, second = v["outputs"][0]["data"]
            self.assertEqual(first, second)
            self.assertEqual(first, self.server.generate({"class": 207, "seed": 4, "omega": 3}).json()["data"][0]["b64_json"])

    def test_binary(self):
        names = b"".join(struct.pack("<I", len(n)) + n for n in (b"otter", b"n02099601"))
        seeds = struct.pack("<qq", 5, 6)
        head = json.dumps({"inputs": [raw("class", names, "BYTES", [2]), raw("seed", seeds, "INT64", [2])],
                           "outputs": [{"name": "seed", "parameters": {"binary_data": True}},
                                       {"name": "image", "parameters": {"binary_data": True}},
                                       {"name": "pixels", "parameters": {"binary_data": False}}]}).encode()
        r = self.infer(head + names + seeds, content_type="application/octet-stream",
                       inference_header_content_length=str(len(head)))
        self.assertEqual((r.status, r.headers["Content-Type"]), (200, "application/octet-stream"))
        n = int(r.headers["Inference-Header-Content-Length"])
        v, rest = json.loads(r.body[:n]), r.body[n:]
        self.assertEqual([o["name"] for o in v["outputs"]], ["seed", "image", "pixels"])
        sizes = [o["parameters"]["binary_data_size"] for o in v["outputs"][:2]]
        self.assertEqual((rest[:16], sizes[0], sum(sizes)), (seeds, 16, len(rest)))
        size = struct.unpack("<I", rest[16:20])[0]
        self.assertEqual(rest[20:20 + size], self.server.generate({"class": 360, "seed": 5}, accept="image/png").body)
        self.assertEqual((len(v["outputs"][2]["data"]), v["outputs"][2]["shape"]), (2 * 16 * 16 * 3, [2, 16, 16, 3]))

    def test_formats(self):
        v = self.infer({"inputs": [tensor("class", [3])], "outputs": [{"name": "image"}],
                        "parameters": {"output_format": "webp", "output_compression": 50, "something": 1}}).json()
        self.assertEqual(v["outputs"][0]["parameters"]["content_type"], "image/webp")
        self.assertEqual(base64.b64decode(v["outputs"][0]["data"][0])[8:12], b"WEBP")

    def test_routes(self):
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/fake", "/v2/models/fake/ready",
                     "/v2/models/fake/versions/1", "/v2/models/fake/versions/1/ready", "/v2/models/other"):
            self.assertEqual(self.server.get(path).status, 200, path)
        self.assertEqual(self.infer({"inputs": [tensor("class", [1])]}, "/v2/models/other/versions/1/infer").status, 200)
        for path in ("/v2/", "/v2/nothing", "/v2/health", "/v2/models", "/v2/models/none", "/v2/models/none/ready",
                     "/v2/models/fake/versions/2", "/v2/models/fake/versions/2/ready", "/v2/models/fake/versions",
                     "/v2/models/fake/else", "/v2/models/fake/versions/1/infer/x", "/v2/models/%zz"):
            self.refused(self.server.get(path), 404)
        self.refused(self.server.get("/v2/models/fake/infer"), 405)
        self.refused(self.server.post("/v2/models/fake", {}), 405)
        self.refused(self.infer({"inputs": [tensor("class", [1])]}, "/v2/models/none/infer"), 404, "none")
        self.refused(self.infer({"inputs": [tensor("class", [1])]}, "/v2/models/fake/versions/3/infer"), 404, "version")

    def test_refused(self):
        one = tensor("class", [1])
        cases = [
            ([], "object"), ({}, "inputs"), ({"inputs": {}}, "inputs"), ({"inputs": []}, "class is required"),
            ({"inputs": [7]}, "no name"), ({"inputs": [{"name": 3}]}, "no name"), ({"inputs": [one, one]}, "twice"),
            ({"inputs": [tensor("klass", [1])]}, "klass"), ({"inputs": [tensor("class", [])]}, "shape"),
            ({"inputs": [tensor("class", [1], "FP16")]}, "datatype"), ({"inputs": [tensor("class", [1], 7)]}, "datatype"),
            ({"inputs": [tensor("class", [1], shape=[2])]}, "fill"), ({"inputs": [tensor("class", [1], shape=[-1])]}, "shape"),
            ({"inputs": [tensor("class", [1], shape=[1.5])]}, "shape"), ({"inputs": [tensor("class", [1], shape="1")]}, "shape"),
            ({"inputs": [tensor("class", [1, 2], shape=[1, 2])]}, "shape"), ({"inputs": [tensor("class", ["x"])]}, "INT64"),
            ({"inputs": [tensor("class", [1], "BYTES")]}, "BYTES"), ({"inputs": [tensor("class", [None])]}, "INT64"),
            ({"inputs": [tensor("class", [[[[[1]]]]])]}, "deep"), ({"inputs": [tensor("class", [1000])]}, "1000"),
            ({"inputs": [tensor("class", ["dragon"], "BYTES")]}, "dragon"), ({"inputs": [tensor("class", [-1])]}, "-1"),
            ({"inputs": [one, tensor("seed", [1, 2])]}, "seeds"), ({"inputs": [one, tensor("seed", [1 << 53])]}, "seeds"),
            ({"inputs": [one, tensor("steps", [1, 2])]}, "steps"), ({"inputs": [one, tensor("steps", [0])]}, "steps"),
            ({"inputs": [one, tensor("omega", [0.5], "FP32")]}, "omega"),
            ({"inputs": [one, tensor("t_min", [0.9], "FP32"), tensor("t_max", [0.1], "FP32")]}, "t_min"),
            ({"inputs": [one], "outputs": 3}, "outputs"), ({"inputs": [one], "outputs": [{}]}, "name"),
            ({"inputs": [one], "outputs": [{"name": "video"}]}, "video"),
            ({"inputs": [one], "outputs": [{"name": "image"}, {"name": "image"}]}, "twice"),
            ({"inputs": [one], "id": 5}, "id"), ({"inputs": [one], "parameters": {"output_format": "gif"}}, "output_format"),
            ({"inputs": [one], "parameters": {"timeout": -1}}, "timeout"),
            ({"inputs": [dict(one, parameters={"binary_data_size": 8})]}, "either"),
            ({"inputs": [{"name": "class", "datatype": "INT64", "shape": [1]}]}, "either"),
            ({"inputs": [raw("class", b"12345678", "INT64", [1])]}, "body"),
            ({"inputs": [tensor("class", [1] * 65)]}, "more than 64"),
        ]
        for body, word in cases:
            with self.subTest(body=str(body)[:120]):
                self.refused(self.infer(body), 400, word)
        self.refused(self.infer("{"), 400)
        self.refused(self.infer("{}", content_type="text/plain"), 415)
        # Without a type: from Triton's client, not from a page.
        body, path = json.dumps({"inputs": [one]}).encode(), "/v2/models/fake/infer"
        self.assertEqual(self.server.request("POST", path, body, {}).status, 200)
        for header in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
            self.assertIn(self.server.request("POST", path, body, header).status, (403, 415))

    def test_bad_bytes(self):
        """What follows the JSON must be what it says, no less and no more."""
        def send(data, datatype="INT64", shape=(1,), length=None, claim=None):
            t = raw("class", data, datatype, list(shape))
            if claim is not None:
                t["parameters"]["binary_data_size"] = claim
            head = json.dumps({"inputs": [t]}).encode()
            return self.infer(head + data, inference_header_content_length=str(len(head) if length is None else length))

        self.assertEqual(send(struct.pack("<q", 5)).status, 200)
        self.assertEqual(send(struct.pack("<I", 5) + b"otter", "BYTES").status, 200)
        self.refused(send(b"1234"), 400, "4 bytes")
        self.refused(send(struct.pack("<qq", 5, 5)), 400)
        self.refused(send(struct.pack("<q", 5), claim=9), 400, "binary_data_size")
        self.refused(send(struct.pack("<q", 5), claim=4), 400)
        self.refused(send(struct.pack("<q", 5), claim=-8), 400)
        self.refused(send(struct.pack("<d", float("nan")), "FP64"), 400)
        for data in (b"", b"\0\0", struct.pack("<I", 9) + b"otter", struct.pack("<I", 4) + b"otter",
                     struct.pack("<I", 0xffffffff) + b"x", struct.pack("<I", 2) + b"\xff\xff",
                     struct.pack("<I", 2) + b"a\0", struct.pack("<I", 300) + b"a" * 300):
            self.refused(send(data, "BYTES"), 400)
        for length in ("", "x", "-1", "1e3", "99999999", "99999999999999999999"):
            self.refused(send(b"12345678", length=length), 400)

    def test_pixels_too_many_for_json(self):
        with Server("--max-n", "64", device="fake:size=512") as server:
            body = {"inputs": [tensor("class", [1] * 8)], "outputs": [{"name": "pixels"}]}
            self.refused(server.post("/v2/models/fake/infer", body), 400, "binary_data")
            body["parameters"] = {"binary_data_output": True}
            r = server.post("/v2/models/fake/infer", body)
            n = int(r.headers["Inference-Header-Content-Length"])
            self.assertEqual((r.status, len(r.body) - n), (200, 8 * 512 * 512 * 3))

    def test_failure(self):
        with Server(device="fake:fail_label=360") as server:
            self.refused(server.post("/v2/models/fake/infer", {"inputs": [tensor("class", [1, 360])]}), 500)

    def test_keys(self):
        """Needed where models are used, never for health."""
        import tempfile
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
            keys.write("team team-secret-1\n")
            keys.flush()
            with Server("--api-keys-file", keys.name) as server:
                for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/fake/ready"):
                    self.assertEqual(server.get(path).status, 200)
                self.refused(server.get("/v2/models/fake"), 401)
                self.refused(server.post("/v2/models/fake/infer", {"inputs": [tensor("class", [1])]}), 401)
                r = server.post("/v2/models/fake/infer", {"inputs": [tensor("class", [1])]},
                                authorization="Bearer team-secret-1")
                self.assertEqual(r.status, 200)


if __name__ == "__main__":
    unittest.main()

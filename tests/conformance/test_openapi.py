"""/openapi.json is a valid OpenAPI 3.1 document and tells the truth about routes, fields and headers."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))

from imfd_server import Server, ServerTest  # noqa: E402
from openapi_spec_validator import validate  # noqa: E402

VALUES = {"model": "fake", "class": "207", "seed": "7", "format": "jpg", "id": None, "version": "1", "file": "style.css"}

BODIES = {"generate": {"class": 3}, "generations": {"prompt": "3"},
          "infer": {"inputs": [{"name": "class", "datatype": "INT64", "shape": [1], "data": [3]}]}}


class OpenApi(ServerTest):
    device = "fake:size=16"

    def setUp(self):
        self.document = self.server.get("/openapi.json").json()

    def operations(self):
        for path, item in self.document["paths"].items():
            for method, operation in item.items():
                yield path, method, operation

    def url(self, path):
        values = dict(VALUES, id="fake" if "models" in path else "207")
        return path.format(**values)

    def test_valid(self):
        validate(self.document)
        with Server("--root-path", "/pictures", device="fake:size=16") as below:
            document = below.get("/pictures/openapi.json").json()
        validate(document)
        self.assertEqual(document["servers"], [{"url": "/pictures"}])

    def test_every_route_is_there(self):
        for path, method, operation in self.operations():
            with self.subTest(path=path, method=method):
                body = BODIES.get(path.rpartition("/")[2]) if method == "post" else None
                reply = (self.server.post(self.url(path), body) if body else self.server.request(method.upper(), self.url(path)))
                self.assertEqual(reply.status, 200, reply.body[:200])
                described = operation["responses"]["200"]
                if method != "head":
                    self.assertIn(reply.headers["Content-Type"].split(";")[0], described["content"])
                for name in ([] if path == "/v1/generate" else described.get("headers", {})):
                    self.assertIn(name, reply.headers)

    def test_other_methods_are_refused(self):
        for path, item in self.document["paths"].items():
            with self.subTest(path=path):
                reply = self.server.request("DELETE", self.url(path), headers={"Content-Length": "0"})
                self.assertEqual(reply.status, 405)
                if not path.startswith("/v2"):  # whose errors have a form of their own
                    reply.error()
                for method in item:
                    self.assertIn(method.upper(), reply.headers["Allow"])
                    self.assertIn("405", item[method]["responses"])

    def test_every_field_is_taken_and_no_other(self):
        schemas = self.document["components"]["schemas"]
        for path, schema, least in (("/v1/generate", "Generate", {"class": 3}),
                                    ("/v1/images/generations", "OpenAIGenerate", {"prompt": "3"})):
            for name in schemas[schema]["properties"]:
                with self.subTest(path=path, field=name):
                    if name not in least:
                        self.assertEqual(self.server.post(path, dict(least, **{name: None})).status, 200)
            reply = self.server.post(path, dict(least, no_such_field=1))
            self.assertEqual((reply.status, reply.error()["param"]), (400, "no_such_field"))

    def test_replies_hold_what_is_said(self):
        schemas = self.document["components"]["schemas"]

        def fields(value, schema):
            self.assertEqual(set(value) - set(schema["properties"]), set())
            self.assertEqual(set(schema.get("required", [])) - set(value), set())
        picture = self.server.generate({"class": 3}).json()
        fields(picture, schemas["Generated"])
        fields(picture["data"][0], schemas["Picture"])
        fields(picture["imfd"], schemas["Facts"])
        fields(self.server.get("/v1/models/fake").json()["imfd"], schemas["Model"]["properties"]["imfd"])
        fields(self.server.get("/v1/classes/3").json(), schemas["Class"])
        reply = self.server.post("/v1/images/generations", {"prompt": "3"}).json()
        fields(reply, schemas["OpenAIGenerated"])
        fields(reply["data"][0], schemas["OpenAIGenerated"]["properties"]["data"]["items"])


if __name__ == "__main__":
    import unittest
    unittest.main()

"""The official openai Python client, unchanged, against imfd."""
import base64
import os
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))

import openai  # noqa: E402
from imfd_server import Server  # noqa: E402


def client(server, key="unused", **options):
    return openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % server.port, api_key=key, **options)


class Images(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-n", "10", device="fake:step_us=1000")
        cls.client = client(cls.server)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.stop()

    def test_generate(self):
        r = self.client.images.generate(prompt="golden retriever", n=2, size="256x256",
                                        response_format="b64_json", extra_body={"seed": 7, "omega": 4})
        self.assertEqual(len(r.data), 2)
        self.assertGreater(r.created, 1_600_000_000)
        for i, image in enumerate(r.data):
            png = base64.b64decode(image.b64_json)
            self.assertTrue(png.startswith(b"\x89PNG"))
            self.assertEqual(image.model_extra["seed"], 7 + i)
        again = self.client.images.generate(prompt="class: n02099601", extra_body={"seed": 7, "omega": 4})
        self.assertEqual(again.data[0].b64_json, r.data[0].b64_json)
        self.assertEqual(r.usage.total_tokens, 0)

    def test_ignored_options(self):
        r = self.client.images.generate(prompt="otter", model="fake", quality="hd", style="vivid",
                                        background="opaque", moderation="low", user="someone",
                                        output_format="png", output_compression=80)
        self.assertEqual(len(r.data), 1)

    def test_url(self):
        r = self.client.images.generate(prompt="otter", response_format="url", n=2)
        for image in r.data:
            with urllib.request.urlopen(image.url) as reply:
                self.assertEqual(reply.headers["Content-Type"], "image/png")
                self.assertTrue(reply.read().startswith(b"\x89PNG"))

    def test_stream(self):
        seen = []
        for event in self.client.images.generate(prompt="otter", n=3, stream=True):
            self.assertEqual(event.type, "image_generation.completed")
            self.assertTrue(base64.b64decode(event.b64_json).startswith(b"\x89PNG"))
            self.assertEqual((event.output_format, event.size, event.background), ("png", "256x256", "opaque"))
            self.assertEqual(event.usage.output_tokens, 0)
            self.assertGreater(event.created_at, 1_600_000_000)
            seen.append(event.model_extra["index"])
        self.assertEqual(sorted(seen), [0, 1, 2])

    def test_raw_response(self):
        raw = self.client.images.with_raw_response.generate(prompt="otter")
        self.assertRegex(raw.headers["x-request-id"], r"^[0-9a-f]{32}$")
        self.assertEqual(raw.parse()._request_id, raw.headers["x-request-id"])

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.images.generate(prompt="a dragon on a hill")
        error = caught.exception
        self.assertEqual((error.param, error.code, error.type),
                         ("prompt", "unknown_class", "invalid_request_error"))
        with self.assertRaises(openai.BadRequestError):
            self.client.images.generate(prompt="otter", size="1024x1024")
        with self.assertRaises(openai.BadRequestError):
            self.client.images.generate(prompt="otter", n=11)
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.images.generate(prompt="otter", model="dall-e-3")
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_models(self):
        models = list(self.client.models.list())
        self.assertEqual([m.id for m in models], ["fake"])
        self.assertEqual(self.client.models.retrieve("fake").object, "model")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("nope")


class Others(unittest.TestCase):
    def test_key(self):
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
            keys.write("team team-secret-1\n")
            keys.flush()
            with Server("--api-keys-file", keys.name) as server:
                with client(server, "team-secret-1") as c:
                    self.assertEqual(len(c.images.generate(prompt="otter").data), 1)
                with client(server, "wrong-secret") as c, self.assertRaises(openai.AuthenticationError):
                    c.images.generate(prompt="otter")

    def test_retries_after_503(self):
        """The queue is full at first; the client waits as told and then is served."""
        with Server("--max-queue", "8", "--max-batch", "2", "--cache-bytes", "0",
                    device="fake:step_us=40000") as server, client(server, max_retries=8) as c:
            filler = threading.Thread(target=lambda: server.generate({"class": 1, "n": 8, "steps": 4}))
            filler.start()
            time.sleep(0.1)
            r = c.images.generate(prompt="otter", n=4)
            self.assertEqual(len(r.data), 4)
            self.assertGreater(server.metric("imfd_rejected_total", reason="queue"), 0)
            filler.join()

    def test_no_retry_after_504(self):
        with Server("--request-timeout-ms", "50", device="fake:step_us=50000") as server, \
                client(server, max_retries=5) as c:
            with self.assertRaises(openai.InternalServerError) as caught:
                c.images.generate(prompt="otter", extra_body={"steps": 60})
            self.assertEqual(caught.exception.status_code, 504)
            self.assertEqual(server.metric("imfd_requests_total", code="504"), 1)

    def test_error_in_stream(self):
        with Server(device="fake:fail_label=360") as server, client(server) as c:
            with self.assertRaises(openai.APIError):
                for _ in c.images.generate(prompt="otter", n=2, stream=True):
                    pass


if __name__ == "__main__":
    unittest.main()

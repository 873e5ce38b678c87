"""Clients of the OpenAI Images API other than OpenAI's own, as they come: LiteLLM, LangChain, the requests of Open
WebUI and of the openai package for Node, as their sources build them."""
import base64
import os
import sys
import unittest
import urllib.request

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))

import litellm  # noqa: E402
from imfd_server import Server, ServerTest  # noqa: E402
from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = "gpt-image-1=fake,dall-e-2=fake,dall-e-3=fake"


class Clients(ServerTest):
    flags = ("--aliases", NAMES, "--cors-origins", "https://app.example")

    def base(self):
        return "http://127.0.0.1:%d/v1" % self.server.port

    def test_litellm(self):
        for model, form in (("fake", "b64_json"), ("gpt-image-1", "b64_json"), ("dall-e-3", "url")):
            r = litellm.image_generation(prompt="otter", model="openai/" + model, api_base=self.base(), api_key="x")
            [image] = r.data
            if form == "b64_json":
                self.assertTrue(base64.b64decode(image.b64_json).startswith(PNG))
            else:
                with urllib.request.urlopen(image.url) as reply:
                    self.assertTrue(reply.read().startswith(PNG))
        r = litellm.image_generation(prompt="otter", model="openai/fake", n=2, size="256x256", quality="hd", user="me",
                                     num_inference_steps=4, guidance_scale=3, api_base=self.base(), api_key="x")
        self.assertEqual(len(r.data), 2)
        with self.assertRaises(litellm.BadRequestError):
            litellm.image_generation(prompt="a dragon", model="openai/fake", api_base=self.base(), api_key="x")

    def test_langchain(self):
        """Its default model is dall-e-2, of which it wants an address."""
        with urllib.request.urlopen(DallEAPIWrapper(api_key="x", base_url=self.base(), size="256x256").run(
                "golden retriever")) as reply:
            self.assertTrue(reply.read().startswith(PNG))

    def test_defaults(self):
        """Nothing but the address is set: sizes that no model has are asked for."""
        with Server("--aliases", NAMES, "--size-policy", "ignore") as server:
            base = "http://127.0.0.1:%d/v1" % server.port
            with urllib.request.urlopen(DallEAPIWrapper(api_key="x", base_url=base).run("otter")) as reply:
                self.assertTrue(reply.read().startswith(PNG))
            [image] = litellm.image_generation(prompt="otter", model="openai/dall-e-3", size="1792x1024", api_base=base, api_key="x").data
            self.assertTrue(image.url or image.b64_json)

    def test_open_webui(self):
        """backend/open_webui/routers/images.py: no response_format for gpt-image models, b64_json for others."""
        headers = {"authorization": "Bearer none", "x_openwebui_user_name": "someone"}
        for model, more in (("gpt-image-1", {}), ("dall-e-3", {"response_format": "b64_json"})):
            for size in ({"size": "256x256"}, {"size": "auto"}, {}):
                r = self.server.post("/v1/images/generations?api-version=2025-04-01-preview",
                                     dict({"model": model, "prompt": "otter", "n": 1}, **size, **more), **headers)
                self.assertEqual(r.status, 200, r.body[:200])
                self.assertTrue(base64.b64decode(r.json()["data"][0]["b64_json"]).startswith(PNG))

    def test_openai_node(self):
        """From a page of a listed origin, where the browser asks for leave to send its headers first."""
        sent = {"X-Stainless-Lang": "js", "X-Stainless-Package-Version": "6.9.0", "X-Stainless-OS": "Unknown",
                "X-Stainless-Arch": "unknown", "X-Stainless-Runtime": "browser:chrome",
                "X-Stainless-Runtime-Version": "142.0.0", "X-Stainless-Retry-Count": "0",
                "X-Stainless-Timeout": "600", "Authorization": "Bearer none", "Accept": "application/json",
                "Content-Type": "application/json", "Origin": "https://app.example"}
        asked = ",".join(sorted(h.lower() for h in sent if h not in ("Origin", "Accept")))
        path = "/v1/images/generations"
        r = self.server.request("OPTIONS", path, headers={
            "Origin": sent["Origin"], "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked})
        self.assertEqual((r.status, r.headers["Access-Control-Allow-Origin"]), (204, sent["Origin"]))
        allowed = {h.strip().lower() for h in r.headers["Access-Control-Allow-Headers"].split(",")}
        self.assertEqual(set(asked.split(",")) - allowed, set())
        r = self.server.request("POST", path, b'{"model":"gpt-image-1","prompt":"otter"}', sent)
        self.assertEqual((r.status, r.headers["Access-Control-Allow-Origin"]), (200, sent["Origin"]))
        self.assertTrue(base64.b64decode(r.json()["data"][0]["b64_json"]).startswith(PNG))



if __name__ == "__main__":
    unittest.main()

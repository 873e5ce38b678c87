"""The Open Inference Protocol by its public clients: tritonclient over HTTP, KServe's REST client."""
import asyncio
import base64
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))

import numpy as np  # noqa: E402
import tritonclient.http as triton  # noqa: E402
from imfd_server import ServerTest  # noqa: E402
from kserve import InferenceRESTClient, InferRequest, InferInput, RESTConfig  # noqa: E402
from kserve.protocol.infer_type import RequestedOutput  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"


class Triton(ServerTest):
    device = "fake:size=32"

    def setUp(self):
        self.client = triton.InferenceServerClient("127.0.0.1:%d" % self.server.port)
        self.addCleanup(self.client.close)

    def tensor(self, name, values, datatype, binary=True):
        types = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32, "BYTES": np.object_}
        value = np.array(values, types[datatype])
        tensor = triton.InferInput(name, value.shape, datatype)
        tensor.set_data_from_numpy(value, binary_data=binary)
        return tensor

    def native(self, **fields):
        return base64.b64decode(self.server.generate(fields).json()["data"][0]["b64_json"])

    def test_health_and_metadata(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        self.assertTrue(self.client.is_model_ready("fake"))
        self.assertTrue(self.client.is_model_ready("fake", "1"))
        self.assertFalse(self.client.is_model_ready("nothing"))
        server = self.client.get_server_metadata()
        self.assertEqual((server["name"], server["extensions"]), ("imfd", ["binary_tensor_data"]))
        model = self.client.get_model_metadata("fake")
        self.assertEqual((model["name"], model["versions"]), ("fake", ["1"]))
        self.assertEqual([t["name"] for t in model["inputs"]], ["class", "seed", "steps", "omega", "t_min", "t_max"])
        self.assertEqual({t["name"]: t["shape"] for t in model["outputs"]},
                         {"image": [-1], "pixels": [-1, 32, 32, 3], "seed": [-1]})

    def test_draws(self):
        """Binary in and out, as the client does by default; the bytes are the native call's."""
        for binary in (True, False):
            r = self.client.infer("fake", [
                self.tensor("class", [207, 360], "INT64", binary), self.tensor("seed", [42, 7], "INT64", binary),
                self.tensor("steps", [1, 3], "INT32", binary), self.tensor("omega", [8, 4.5], "FP32", binary)],
                request_id="a-7", outputs=[triton.InferRequestedOutput("image", binary_data=True)])
            self.assertEqual(r.get_response()["id"], "a-7")
            images = r.as_numpy("image")
            self.assertEqual(images.shape, (2,))
            self.assertEqual(images[0], self.native(**{"class": 207, "seed": 42, "steps": 1, "omega": 8}))
            self.assertEqual(images[1], self.native(**{"class": 360, "seed": 7, "steps": 3, "omega": 4.5}))

    def test_names_and_pixels(self):
        r = self.client.infer("fake", [self.tensor("class", ["golden retriever", "n02099601", "207"], "BYTES"),
                                       self.tensor("seed", [1, 1, 1], "INT64")],
                              outputs=[triton.InferRequestedOutput("pixels"), triton.InferRequestedOutput("seed")])
        pixels = r.as_numpy("pixels")
        self.assertEqual((pixels.shape, pixels.dtype), ((3, 32, 32, 3), np.uint8))
        self.assertTrue((pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all())
        self.assertEqual(list(r.as_numpy("seed")), [1, 1, 1])
        npy = self.server.generate({"class": 207, "seed": 1}, accept="application/x-npy").body
        self.assertEqual(npy[-pixels[0].size:], pixels[0].tobytes())

    def test_default_outputs(self):
        """Nothing asked for: the picture and its seed, which was drawn."""
        r = self.client.infer("fake", [self.tensor("class", [3], "INT64")])
        self.assertTrue(r.as_numpy("image")[0].startswith(PNG))
        again = self.native(**{"class": 3, "seed": int(r.as_numpy("seed")[0])})
        self.assertEqual(r.as_numpy("image")[0], again)

    def test_json(self):
        r = self.client.infer("fake", [self.tensor("class", [3], "INT64", False), self.tensor("seed", [5], "INT64", False)],
                              outputs=[triton.InferRequestedOutput("image", binary_data=False),
                                       triton.InferRequestedOutput("pixels", binary_data=False)])
        self.assertEqual(base64.b64decode(r.as_numpy("image")[0]), self.native(**{"class": 3, "seed": 5}))
        self.assertEqual(r.as_numpy("pixels").shape, (1, 32, 32, 3))

    def test_errors(self):
        for inputs in ([self.tensor("class", [5000], "INT64")], [self.tensor("seed", [1], "INT64")],
                       [self.tensor("class", ["dragon"], "BYTES")], [self.tensor("klass", [1], "INT64")],
                       [self.tensor("class", [1], "INT64"), self.tensor("steps", [0], "INT32")]):
            with self.assertRaises(triton.InferenceServerException) as caught:
                self.client.infer("fake", inputs)
            self.assertTrue(caught.exception.message())


class KServe(ServerTest):
    device = "fake:size=32"

    def run_client(self, work):
        async def body():
            client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
            try:
                return await work(client, "http://127.0.0.1:%d" % self.server.port)
            finally:
                await client.close()
        return asyncio.run(body())

    def test_health(self):
        async def work(client, base):
            return (await client.is_server_ready(base), await client.is_server_live(base),
                    await client.is_model_ready(base, "fake"))
        self.assertEqual(self.run_client(work), (True, True, True))

    def test_infer(self):
        async def work(client, base):
            request = InferRequest(model_name="fake", request_id="k", infer_inputs=[
                InferInput("class", [2], "INT64", [207, 360]), InferInput("seed", [2], "INT64", [42, 42])],
                request_outputs=[RequestedOutput("image")])
            return await client.infer(base, request, model_name="fake")
        r = self.run_client(work)
        self.assertEqual(r.id, "k")
        png = base64.b64decode(r.outputs[0].data[0])
        self.assertEqual(png, base64.b64decode(self.server.generate({"class": 207, "seed": 42}).json()["data"][0]["b64_json"]))


if __name__ == "__main__":
    import unittest
    unittest.main()

"""conf/k8s against the published Kubernetes schemas, and what those cannot see: the numbers that have
to fit imfd's drain. conf/compose.yaml against the published schema (compose-spec.json, Apache-2.0, as
docker-compose 1.29.2 ships it), and every file it mounts is there. No cluster and no engine is
started: that is this test's limit."""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from deploy import ROOT, SKIP

try:
    import jsonschema
    import kubernetes_validate
    import yaml
except ImportError as e:
    print("skipped: %s (tests/requirements.txt)" % e)
    sys.exit(SKIP)

K8S = os.path.join(ROOT, "conf", "k8s")


def documents(name):
    with open(os.path.join(K8S, name)) as f:
        return list(yaml.safe_load_all(f))


class Kubernetes(unittest.TestCase):
    def test_schemas(self):
        kinds = []
        for name in sorted(os.listdir(K8S)):
            for document in documents(name):
                kubernetes_validate.validate(document, "1.29", strict=True)
                kinds.append(document["kind"])
        self.assertEqual(sorted(kinds), ["ConfigMap", "Deployment", "Deployment", "HorizontalPodAutoscaler", "Job",
                                         "PersistentVolumeClaim", "PodDisruptionBudget", "Service"])

    def test_the_validator_refuses(self):
        broken = documents("imfd.yaml")[0]
        broken["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, "1.29", strict=True)

    def test_consistent(self):
        deployment, service, budget, scaler = documents("imfd.yaml")
        pod = deployment["spec"]["template"]["spec"]
        container = pod["containers"][0]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        for selector in (service["spec"]["selector"], budget["spec"]["selector"]["matchLabels"],
                         deployment["spec"]["selector"]["matchLabels"]):
            self.assertLessEqual(selector.items(), labels.items())
        self.assertEqual(scaler["spec"]["scaleTargetRef"]["name"], deployment["metadata"]["name"])
        pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        self.assertGreater(pod["terminationGracePeriodSeconds"], 30 + pause)  # drain_timeout
        self.assertEqual(container["readinessProbe"]["httpGet"]["path"], "/readyz")
        self.assertEqual(container["livenessProbe"]["httpGet"]["path"], "/livez")
        self.assertEqual(scaler["spec"]["metrics"][0]["pods"]["metric"]["name"], "imfd_queue_images")


class Weights(unittest.TestCase):
    """The claim that the pods mount is the one that the Job fills, and the Job's script does so."""

    @classmethod
    def setUpClass(cls):
        cls.claim, cls.config, cls.job = documents("weights.yaml")
        cls.pod = documents("imfd.yaml")[0]["spec"]["template"]["spec"]

    def test_consistent(self):
        filler = self.job["spec"]["template"]["spec"]
        for pod, read_only in ((self.pod, True), (filler, False)):
            [mount] = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "models"]
            [volume] = [v for v in pod["volumes"] if v["name"] == "models"]
            self.assertEqual(mount["mountPath"], "/models")
            self.assertEqual(mount.get("readOnly", False), read_only)
            self.assertEqual(volume["persistentVolumeClaim"]["claimName"], self.claim["metadata"]["name"])
        # The same owner, for the pods have to read what the Job writes.
        self.assertEqual(filler["securityContext"], self.pod["securityContext"])
        self.assertNotIn("app", self.job["spec"]["template"]["metadata"]["labels"])  # the Service selects by it
        [models] = [e["value"] for e in self.pod["containers"][0]["env"] if e["name"] == "IMFD_MODELS"]
        names = {line.split()[1] for line in self.config["data"]["files"].splitlines()}
        self.assertEqual(set(re.findall(r"=/models/([^,]+)", models)), names)
        patch = documents("gpu.yaml")[0]["spec"]["template"]["spec"]  # leaves the mount as it is
        self.assertEqual(patch["containers"][0]["name"], self.pod["containers"][0]["name"])
        self.assertNotIn("volumeMounts", patch["containers"][0])
        self.assertNotIn("volumes", patch)

    def fetch(self, folder, files):
        with open(folder + "/files", "w") as f:
            f.write(files)
        script = self.config["data"]["fetch"].replace("/models", folder + "/models").replace("/weights", folder)
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=50)

    def test_script(self):
        if shutil.which("curl") is None:
            self.skipTest("curl is not installed")
        with tempfile.TemporaryDirectory(prefix="imfd-weights-") as folder:
            os.mkdir(folder + "/models")
            with open(folder + "/source", "wb") as f:
                f.write(b"weights")
            digest = hashlib.sha256(b"weights").hexdigest()
            done = self.fetch(folder, self.config["data"]["files"])
            self.assertIn("no SHA-256 is given", done.stderr)
            self.assertNotEqual(done.returncode, 0)
            done = self.fetch(folder, "%s a.pth file://%s/source\n" % (digest[::-1], folder))
            self.assertNotEqual(done.returncode, 0)
            self.assertFalse(os.path.exists(folder + "/models/a.pth"))
            line = "%s %%s file://%s/source\n" % (digest, folder)
            done = self.fetch(folder, line % "a.pth" + line % "b.pth")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(sorted(os.listdir(folder + "/models")), ["a.pth", "b.pth"])
            os.remove(folder + "/source")  # a second run has nothing to fetch
            self.assertEqual(self.fetch(folder, line % "a.pth" + line % "b.pth").returncode, 0)
            os.remove(folder + "/models/b.pth")
            self.assertNotEqual(self.fetch(folder, line % "b.pth").returncode, 0)


def load(*path):
    with open(os.path.join(ROOT, "conf", *path)) as f:
        return list(yaml.safe_load_all(f))


class Routers(unittest.TestCase):
    """Every metric, label, port, flag and path that the custom resources name is one of imfd's
    (test_custom_resources.py has their schemas)."""

    @classmethod
    def setUpClass(cls):
        sys.path.insert(0, os.path.join(ROOT, "tests", "http"))
        from imfd_server import Server
        with Server("--model-name", "mit-b-2") as server:
            cls.metrics = server.get("/metrics").body.decode()
            cls.statuses = {path: server.get(path).status for path in
                            ("/v2/health/ready", "/v2/health/live", "/metrics", "/v2/models/mit-b-2/ready")}
        cls.deployment = documents("imfd.yaml")[0]

    def has_metric(self, name):
        self.assertRegex(self.metrics, r"(?m)^# TYPE %s gauge$" % name)

    def test_llm_d(self):
        pool, route = load("llm-d", "inferencepool.yaml")
        labels = self.deployment["spec"]["template"]["metadata"]["labels"]
        self.assertLessEqual(pool["spec"]["selector"]["matchLabels"].items(), labels.items())
        ports = [p["containerPort"] for p in self.deployment["spec"]["template"]["spec"]["containers"][0]["ports"]]
        self.assertIn(pool["spec"]["targetPorts"][0]["number"], ports)
        self.assertEqual(route["spec"]["rules"][0]["backendRefs"][0]["name"], pool["metadata"]["name"])
        [config] = load("llm-d", "epp.yaml")
        plugins = {p.get("name", p["type"]): p for p in config["plugins"]}
        for profile in config["schedulingProfiles"]:
            for plugin in profile["plugins"]:
                self.assertIn(plugin["pluginRef"], plugins)
        for source in config["dataLayer"]["sources"]:
            for ref in [source["pluginRef"]] + [e["pluginRef"] for e in source["extractors"]]:
                self.assertIn(ref, plugins)
        [engine] = plugins["metrics-extractor"]["parameters"]["engineConfigs"]
        self.assertEqual(engine.pop("name"), plugins["metrics-extractor"]["parameters"]["defaultEngine"])
        self.assertEqual(sorted(engine), ["kvUsageSpec", "queuedRequestsSpec", "runningRequestsSpec"])
        for metric in engine.values():
            self.has_metric(metric)

    def test_keda(self):
        [scaled] = load("keda", "scaledobject.yaml")
        self.assertEqual(scaled["spec"]["scaleTargetRef"]["name"], self.deployment["metadata"]["name"])
        [trigger] = scaled["spec"]["triggers"]
        for metric in re.findall(r"imfd_\w+", trigger["metadata"]["query"]):
            self.has_metric(metric)

    def test_kserve(self):
        [runtime], [service] = load("kserve", "runtime.yaml"), load("kserve", "inferenceservice.yaml")
        [container] = runtime["spec"]["containers"]
        self.assertEqual(container["name"], "kserve-container")
        self.assertEqual(service["spec"]["predictor"]["model"]["runtime"], runtime["metadata"]["name"])
        formats = [f["name"] for f in runtime["spec"]["supportedModelFormats"]]
        self.assertIn(service["spec"]["predictor"]["model"]["modelFormat"]["name"], formats)
        self.assertTrue(container["securityContext"]["runAsNonRoot"])
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(self.statuses[container[probe]["httpGet"]["path"]], 200)
        self.assertEqual(self.statuses[runtime["spec"]["annotations"]["prometheus.kserve.io/path"]], 200)
        self.assertEqual(self.statuses["/v2/models/mit-b-2/ready"], 200)
        flags = [a[2:].replace("-", "_") for a in container["args"] if a.startswith("--")]
        with open(os.path.join(ROOT, "conf", "imfd.json")) as f:
            keys = f.read()
        for flag in flags + [e["name"][5:].lower() for e in container["env"]]:
            self.assertIn('"%s":' % flag, keys)


class Compose(unittest.TestCase):
    def test_schema(self):
        with open(os.path.join(ROOT, "tests", "deploy", "compose-spec.json")) as f:
            schema = json.load(f)
        with open(os.path.join(ROOT, "conf", "compose.yaml")) as f:
            compose = yaml.safe_load(f)
        jsonschema.validate(compose, schema)
        compose["services"]["imfd"]["enviroment"] = {}
        with self.assertRaises(jsonschema.ValidationError):
            jsonschema.validate(compose, schema)

    def test_files_exist(self):
        with open(os.path.join(ROOT, "conf", "compose.yaml")) as f:
            services = yaml.safe_load(f)["services"]
        self.assertEqual(sorted(services), ["grafana", "imfd", "nginx", "prometheus"])
        for service in services.values():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if not source.startswith("$"):
                    self.assertTrue(os.path.exists(os.path.join(ROOT, "conf", source)), volume)


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""conf/k8s against the published Kubernetes schemas, and what those cannot see: the numbers that have
to fit imfd's drain. conf/compose.yaml against the published schema (compose-spec.json, Apache-2.0, as
docker-compose 1.29.2 ships it), and every file it mounts is there. No cluster and no engine is
started: that is this test's limit."""
import json
import os
import sys
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
        self.assertEqual(sorted(kinds), ["Deployment", "Deployment", "HorizontalPodAutoscaler",
                                         "PodDisruptionBudget", "Service"])

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

"""conf/kserve, conf/keda and conf/llm-d against the schemas of the custom resources they are written for: KServe's as its
Python package has them, KEDA's ScaledObject and the Inference Extension's InferencePool (v1) as custom_resources.json
repeats them, the Gateway API's HTTPRoute as far as it is used. Unknown fields are errors, as with kubectl's strict
validation. No cluster is started: what an operator does with a valid resource is not seen here."""
import copy
import json
import os
import re
import sys
import unittest

from deploy import ROOT, SKIP

try:
    import jsonschema
    import kserve.models
    import kubernetes.client
    import yaml
except ImportError as e:
    print("skipped: %s (tests/requirements.txt)" % e)
    sys.exit(SKIP)

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "custom_resources.json")) as schemas_file:
    SCHEMAS = json.load(schemas_file)
KSERVE = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}
SCALARS = {"str": str, "bool": bool, "int": int, "float": (int, float), "object": object}


def documents(*path):
    with open(os.path.join(ROOT, "conf", *path)) as f:
        return list(yaml.safe_load_all(f))


class Wrong(Exception):
    pass


def follow(value, kind, where):
    """Raises Wrong unless the value is what a generated model of that name (or list, or dict) takes."""
    inner = re.fullmatch(r"(?i:(list\[)|dict[(\[]str, )(.*)[\])]", kind)
    if inner:
        if not isinstance(value, list if inner.group(1) else dict):
            raise Wrong("%s is no %s" % (where, kind))
        for key, item in enumerate(value) if isinstance(value, list) else value.items():
            follow(item, inner.group(2), "%s[%s]" % (where, key))
        return
    if kind in SCALARS:
        if not isinstance(value, SCALARS[kind]) or (isinstance(value, bool) and kind == "int"):
            raise Wrong("%s is no %s" % (where, kind))
        return
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None:
        raise Wrong("%s: %s is not known" % (where, kind))
    if not isinstance(value, dict):
        raise Wrong("%s is no %s" % (where, kind))
    fields = {name: (attribute, model.openapi_types[attribute]) for attribute, name in model.attribute_map.items()}
    for key, item in value.items():
        if key not in fields:
            raise Wrong("%s has no field %s" % (where, key))
        follow(item, fields[key][1], where + "." + key)
    try:
        model(**{fields[key][0]: item for key, item in value.items()})  # what must be there
    except ValueError as e:
        raise Wrong("%s: %s" % (where, e)) from None


class CustomResources(unittest.TestCase):
    def check(self, document):
        kind = document["kind"]
        if kind in KSERVE:
            follow(document, KSERVE[kind], kind)
        else:
            jsonschema.validate(document, SCHEMAS[kind])

    def refuses(self, document, change):
        broken = copy.deepcopy(document)
        change(broken)
        with self.assertRaises((Wrong, jsonschema.ValidationError)):
            self.check(broken)

    def test_valid(self):
        kinds = []
        for path in (("kserve", "runtime.yaml"), ("kserve", "inferenceservice.yaml"), ("keda", "scaledobject.yaml"),
                     ("llm-d", "inferencepool.yaml")):
            for document in documents(*path):
                self.check(document)
                kinds.append((document["apiVersion"], document["kind"]))
        self.assertEqual(kinds, [("serving.kserve.io/v1alpha1", "ServingRuntime"),
                                 ("serving.kserve.io/v1beta1", "InferenceService"),
                                 ("keda.sh/v1alpha1", "ScaledObject"),
                                 ("inference.networking.k8s.io/v1", "InferencePool"),
                                 ("gateway.networking.k8s.io/v1", "HTTPRoute")])

    def test_kserve_refuses(self):
        [runtime], [service] = documents("kserve", "runtime.yaml"), documents("kserve", "inferenceservice.yaml")
        for change in (lambda d: d["spec"].update(supportedFormats=[]),
                       lambda d: d["spec"]["containers"][0].update(imagee="x"),
                       lambda d: d["spec"]["containers"][0]["readinessProbe"]["httpGet"].pop("port"),
                       lambda d: d["spec"].pop("containers"),
                       lambda d: d["spec"].update(protocolVersions="v2")):
            self.refuses(runtime, change)
        for change in (lambda d: d["spec"]["predictor"]["model"].update(storageURI="pvc://x"),
                       lambda d: d["spec"]["predictor"].update(minReplicas="1")):
            self.refuses(service, change)

    def test_others_refuse(self):
        [scaled] = documents("keda", "scaledobject.yaml")
        pool, route = documents("llm-d", "inferencepool.yaml")
        for change in (lambda d: d["spec"]["triggers"][0].update(metricType="Average"),
                       lambda d: d["spec"]["triggers"][0]["metadata"].update(threshold=10),
                       lambda d: d["spec"]["scaleTargetRef"].pop("name"),
                       lambda d: d["spec"].update(minReplicas=1)):
            self.refuses(scaled, change)
        for change in (lambda d: d["spec"].update(targetPortNumber=8080),
                       lambda d: d["spec"]["endpointPickerRef"].pop("port"),
                       lambda d: d["spec"]["endpointPickerRef"].update(failureMode="Open"),
                       lambda d: d["spec"].update(selector={"app": "imfd"}),
                       lambda d: d["spec"]["targetPorts"].clear()):
            self.refuses(pool, change)
        self.refuses(route, lambda d: d["spec"]["rules"][0]["backendRefs"][0].pop("name"))
        self.refuses(route, lambda d: d["spec"]["rules"][0]["matches"][0]["path"].update(value="v1"))


if __name__ == "__main__":
    unittest.main()

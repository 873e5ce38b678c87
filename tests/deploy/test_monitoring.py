"""conf/prometheus with promtool, conf/grafana/imfd.json and every alert against the metrics that a
real imfd has."""
import json
import os
import re
import subprocess
import tempfile
import unittest

from deploy import ROOT, Replica, free_port, need

CONF = os.path.join(ROOT, "conf")


class Monitoring(unittest.TestCase):
    def promtool(self, *arguments):
        done = subprocess.run(["promtool", *arguments], cwd=CONF + "/prometheus", capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_rules(self):
        self.promtool("check", "config", "prometheus.yml")
        self.promtool("check", "rules", "imfd-alerts.yml")
        self.promtool("test", "rules", "imfd-alerts-test.yml")

    def test_every_metric_exists(self):
        with tempfile.TemporaryDirectory() as folder:
            replica = Replica(folder, 0, "127.0.0.1:%d" % free_port(), "fake")
            have = set(re.findall(r"^# TYPE (\w+)", replica.metrics_text(), flags=re.M))
            replica.drain()
        with open(CONF + "/grafana/imfd.json") as f:
            dashboard = json.load(f)
        expressions = [t["expr"] for p in dashboard["panels"] for t in p["targets"]]
        self.assertGreater(len(expressions), 15)
        with open(CONF + "/prometheus/imfd-alerts.yml") as f:
            expressions.append(f.read())
        used = {re.sub(r"_(bucket|sum|count)$", "", name)
                for e in expressions for name in re.findall(r"\b(?:imfd|process)_\w+", e)}
        used = {name for name in used if not name.startswith("imfd_errors")}
        self.assertEqual(used - have, set())
        for wanted in ("imfd_queue_images", "imfd_request_duration_seconds", "imfd_batch_size",
                       "imfd_engine_busy_seconds_total"):
            self.assertIn(wanted, used)
        for e in expressions[:-1]:
            self.promtool_expression(e)

    def promtool_expression(self, expression):
        """promtool parses it as the rule of a recording."""
        rule = {"groups": [{"name": "x", "rules": [{"record": "x", "expr":
                expression.replace("$instance", ".*")}]}]}
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as f:
            json.dump(rule, f)  # JSON is YAML
            f.flush()
            self.promtool("check", "rules", f.name)

    def test_every_alert_is_explained_and_tested(self):
        with open(CONF + "/prometheus/imfd-alerts.yml") as f:
            alerts = re.findall(r"alert: (\w+)", f.read())
        with open(CONF + "/prometheus/imfd-alerts-test.yml") as f:
            tested = f.read()
        with open(ROOT + "/docs/operations.md") as f:
            explained = f.read()
        for alert in alerts:
            self.assertIn("| %s |" % alert, explained)
            self.assertRegex(tested, r"alertname: %s\n\s+exp_alerts:\n" % alert)


if __name__ == "__main__":
    need("promtool")
    unittest.main(verbosity=2)

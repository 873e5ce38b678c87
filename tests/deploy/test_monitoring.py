"""conf/prometheus and conf/grafana/imfd.json: promtool, every metric against those that a real imfd
has, and a running Prometheus that scrapes it, answers every query of the dashboard and raises an
alert when it is killed. Grafana itself is not started: that is this test's limit."""
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import unittest
import urllib.parse

from deploy import ROOT, Load, Proxy, Replica, Site, edit, free_port, make_certificate, need, wait_for

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


class Running(unittest.TestCase):
    """The files with shorter times, and addresses in the place of compose.yaml's names."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="imfd-prometheus-")
        cls.imfd_port, cls.port = free_port(), free_port()
        cls.replica = Replica(cls.folder, 0, "127.0.0.1:%d" % cls.imfd_port,
                              "fake:step_us=8000,decode_us=2000", "--max-queue", "8")
        with open(CONF + "/prometheus/prometheus.yml") as f:
            text = edit(f.read(), (r"_interval: 10s", "_interval: 200ms"),
                        (r"    dns_sd_configs:.*\n(?:      .*\n)+",
                         "    static_configs: [{targets: ['127.0.0.1:%d']}]\n" % cls.replica.metrics_port))
        with open(cls.folder + "/prometheus.yml", "w") as f:
            f.write(text)
        with open(CONF + "/prometheus/imfd-alerts.yml") as f:
            text = edit(f.read(), (r"for: \d+m", "for: 2s"))
        with open(cls.folder + "/imfd-alerts.yml", "w") as f:
            f.write(text)
        cls.prometheus = Proxy(["prometheus", "--config.file=" + cls.folder + "/prometheus.yml",
                                "--storage.tsdb.path=" + cls.folder + "/data",
                                "--web.listen-address=127.0.0.1:%d" % cls.port], cls.folder + "/log")
        try:
            wait_for("Prometheus to scrape imfd", lambda: cls.value('up{job="imfd"}') == 1)
        except AssertionError:
            print(cls.prometheus.log()[-3000:])
            raise

    @classmethod
    def tearDownClass(cls):
        cls.prometheus.stop()
        cls.replica.kill()
        shutil.rmtree(cls.folder)

    @classmethod
    def ask(cls, path, **query):
        connection = http.client.HTTPConnection("127.0.0.1", cls.port, timeout=30)
        try:
            connection.request("GET", "/api/v1/" + path + "?" + urllib.parse.urlencode(query))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    @classmethod
    def value(cls, expression):
        """The value of the only series, or None."""
        try:
            result = cls.ask("query", query=expression)["data"]["result"]
        except (OSError, ValueError):  # not up yet
            return None
        return float(result[0]["value"][1]) if len(result) == 1 else None

    def load(self):
        """Something of everything that the dashboard shows."""
        site = Site(self.imfd_port, 0, make_certificate(self.folder)[1])
        for i in range(40):
            site.request("GET", "/v1/images/fake/1/%d.png" % (i % 4))
        connection = site.connect()  # a client that goes away
        connection.request("POST", "/v1/generate", json.dumps({"class": 1, "n": 8, "steps": 64}),
                           {"Content-Type": "application/json"})
        wait_for("its request to run", lambda: self.replica.metric("imfd_requests_running") > 0)
        connection.close()
        load = Load(site, 24)
        load.more(100)
        time.sleep(1.5)  # some scrapes
        load.stop()

    def test_dashboard_and_alerts(self):
        rules = [r for g in self.ask("rules")["data"]["groups"] for r in g["rules"]]
        self.assertEqual({r["health"] for r in rules} - {"ok", "unknown"}, set())
        self.load()
        with open(CONF + "/grafana/imfd.json") as f:
            dashboard = json.load(f)
        empty, asked = [], 0
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                # Grafana puts allValue there when "All" is chosen.
                answer = self.ask("query", query=target["expr"].replace("$instance", ".*"))
                self.assertEqual(answer["status"], "success", (panel["title"], answer))
                asked += 1
                if not answer["data"]["result"]:
                    empty.append((panel["title"], target["expr"]))
        print("%d queries, empty: %s" % (asked, empty))
        self.assertEqual(empty, [])
        for expression in ("sum(rate(imfd_images_total[1m]))", "sum(rate(imfd_rejected_total[1m]))",
                           "sum(rate(imfd_cancelled_total[1m]))", "sum(imfd_cache_hits_total)",
                           "sum(rate(imfd_engine_busy_seconds_total[1m]))"):
            self.assertGreater(self.value(expression), 0, expression)
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                name = re.match(r"label_values\((\w+), instance\)", variable["query"]["query"])[1]
                self.assertEqual(self.ask("label/instance/values", **{"match[]": name})["data"],
                                 ["127.0.0.1:%d" % self.replica.metrics_port])
        states = []
        self.replica.kill()

        def down_fires():
            for alert in self.ask("alerts")["data"]["alerts"]:
                if alert["labels"]["alertname"] == "ImfdDown" and alert["state"] not in states:
                    states.append(alert["state"])
            return "firing" in states

        wait_for("ImfdDown to fire", down_fires)
        self.assertEqual(states, ["pending", "firing"])
        self.replica.start()
        wait_for("ImfdDown to be over", lambda: not [
            a for a in self.ask("alerts")["data"]["alerts"] if a["labels"]["alertname"] == "ImfdDown"])


if __name__ == "__main__":
    need("promtool", "prometheus", "openssl")
    unittest.main(verbosity=2)

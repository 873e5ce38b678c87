"""A long mixed load on imfd with the fake engine: every reply form, cached and fresh pictures, bad
requests, clients that hang up, slow readers. Memory, descriptors and errors are printed as it goes;
the exit status is 1 when memory grew between the second and the last fifth, or a reply was wrong.

usage: soak.py IMFD [SECONDS [CLIENTS]]"""
import http.client
import json
import os
import random
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "http"))
os.environ["IMFD"] = sys.argv[1]
from imfd_server import Server, post_bytes  # noqa: E402  (after IMFD is set)

SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 600
CLIENTS = int(sys.argv[3]) if len(sys.argv) > 3 else 16
FORMS = ("application/json", "image/png", "multipart/mixed", "text/event-stream", "application/x-npy")


class Client(threading.Thread):
    def __init__(self, server, seed, end):
        super().__init__(daemon=True)
        self.server, self.random, self.end = server, random.Random(seed), end
        self.counts, self.wrong = {}, []

    def note(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def ask(self):
        r = self.random
        return {"class": r.randrange(1000), "seed": r.randrange(100), "n": r.choice([1, 1, 1, 2, 4]),
                "steps": r.choice([1, 1, 2, 4]), "omega": r.choice([2, 8]), "priority": r.randrange(10)}

    def hang_up(self):
        s = self.server.connect()
        s.sendall(post_bytes(self.ask(), "Accept: %s\r\n" % self.random.choice(FORMS[2:])))
        if self.random.random() < 0.5:
            s.recv(1000)
        time.sleep(self.random.random() * 0.02)
        s.close()
        self.note("hang-up")

    def request(self, connection):
        r = self.random
        kind = r.random()
        if kind < 0.4:
            connection.request("GET", "/v1/images/fake/%d/%d.png" % (r.randrange(50), r.randrange(50)))
            good = {200, 503}
        elif kind < 0.45:
            connection.request("POST", "/v1/generate", '{"class": "dragon"}',
                               {"Content-Type": "application/json"})
            good = {400}
        elif kind < 0.5:
            connection.request("GET", r.choice(["/v1/classes?q=dog", "/v1/models", "/metrics", "/nothing"]))
            good = {200, 404}
        else:
            ask = self.ask()
            form = "image/png" if ask["n"] == 1 and r.random() < 0.5 else r.choice(FORMS[:1] + FORMS[2:])
            connection.request("POST", "/v1/generate", json.dumps(ask),
                               {"Content-Type": "application/json", "Accept": form})
            good = {200, 503}
        reply = connection.getresponse()
        reply.read()
        self.note(reply.status)
        if reply.status not in good:
            self.wrong.append((reply.status, kind))

    def run(self):
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        while time.monotonic() < self.end:
            try:
                if self.random.random() < 0.05:
                    self.hang_up()
                else:
                    self.request(connection)
            except (OSError, http.client.HTTPException) as e:
                self.wrong.append(repr(e))
                connection.close()
        connection.close()


def main():
    with Server("--max-queue", "64", "--cache-bytes", "16M",
                device="fake:step_us=500,decode_lane_us=500") as server:
        start = time.monotonic()
        clients = [Client(server, i, start + SECONDS) for i in range(CLIENTS)]
        for c in clients:
            c.start()
        samples = []
        print("  seconds  replies   memory MB  descriptors")
        while time.monotonic() < start + SECONDS:
            time.sleep(min(SECONDS / 30, 20))
            samples.append(server.memory())
            print("%9.0f %8d %11.1f %12d" % (time.monotonic() - start, sum(
                sum(c.counts.values()) for c in clients), samples[-1] / 1e6, server.descriptors()), flush=True)
        for c in clients:
            c.join()
        time.sleep(1)
        totals = {}
        for c in clients:
            for k, v in c.counts.items():
                totals[k] = totals.get(k, 0) + v
        wrong = [w for c in clients for w in c.wrong]
        fifth = max(1, len(samples) // 5)
        early, late = max(samples[fifth:2 * fifth]), max(samples[-fifth:])
        print("replies by status:", totals)
        print("wrong:", len(wrong), wrong[:5])
        print("cancelled:", server.metric("imfd_cancelled_total"), "of", totals.get("hang-up", 0), "hang-ups")
        print("left over: %d queued, %d running, %d descriptors" % (
            server.metric("imfd_queue_images"), server.metric("imfd_requests_running"), server.descriptors()))
        print("memory: at most %.1f MB in the second fifth, %.1f MB in the last" % (early / 1e6, late / 1e6))
        bad = bool(wrong) or late > early * 1.05 + 4e6
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

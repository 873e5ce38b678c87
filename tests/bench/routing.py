"""Three replicas behind a router: requests of mixed n and steps, sent to the replica with the least backlog as scraped
(imfd_backlog_seconds, at most SCRAPE_MS old) against the one with the fewest requests open. Arrivals are open-loop and
the same for both. The fake engine takes the time of a small GPU: 2 ms a step and 0.5 ms a lane.

usage: routing.py IMFD [REQUESTS [LOAD [SCRAPE_MS]]]    LOAD: share of what the replicas can do, 0.7"""
import http.client
import json
import os
import random
import re
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "http"))
os.environ["IMFD"] = sys.argv[1]
from imfd_server import Server  # noqa: E402  (after IMFD is set)

REQUESTS = int(sys.argv[2]) if len(sys.argv) > 2 else 600
LOAD = float(sys.argv[3]) if len(sys.argv) > 3 else 0.7
SCRAPE_MS = float(sys.argv[4]) if len(sys.argv) > 4 else 20
DEVICE = "fake:step_us=2000,step_lane_us=500,decode_us=500,decode_lane_us=200,size=32"
LANE_MS, DECODE_MS = 2.0 / 8 + 0.5, 0.5 / 8 + 0.2  # in full batches


def work(seed):
    """(n, steps) of each request: most are small, a few are as large as fifty of them."""
    rng = random.Random(seed)
    return [(rng.choice((1, 1, 1, 2, 4, 8, 32)), rng.choice((1, 1, 1, 2, 4, 20))) for _ in range(REQUESTS)]


class Router:
    def __init__(self, servers, by_backlog):
        self.servers, self.by_backlog = servers, by_backlog
        self.open = [0] * len(servers)
        self.backlog = [0.0] * len(servers)
        self.lock = threading.Lock()
        self.done = False

    def scrape(self):
        connections = [http.client.HTTPConnection(s.host, s.port) for s in self.servers]
        while not self.done:
            for i, connection in enumerate(connections):
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
                value = float(re.search(r'^imfd_backlog_seconds\{model="fake"\} (\S+)$', text, re.M)[1])
                with self.lock:
                    self.backlog[i] = value
            time.sleep(SCRAPE_MS / 1e3)

    def choose(self, n, steps):
        with self.lock:
            key = self.backlog if self.by_backlog else self.open
            best = min(range(len(self.servers)), key=lambda i: (key[i], random.random()))
            self.open[best] += 1
            # Until the next scrape the router adds what it has just sent.
            self.backlog[best] += (n * (steps * LANE_MS + DECODE_MS)) / 1e3
            return best

    def finished(self, index):
        with self.lock:
            self.open[index] -= 1


def run(by_backlog, jobs, gaps):
    servers = [Server("--cache-bytes", "0", "--max-queue", "100000", device=DEVICE)
               for _ in range(3)]
    router = Router(servers, by_backlog)
    for k, server in enumerate(servers):  # teaches the speed
        for n in (1, 2, 4, 8, 16):
            server.generate({"class": k, "n": n, "steps": 2})
    scraper = threading.Thread(target=router.scrape)
    scraper.start()
    latency = [0.0] * len(jobs)

    def send(i, n, steps):
        begin = time.monotonic()
        index = router.choose(n, steps)
        r = servers[index].generate({"class": i % 1000, "n": n, "steps": steps, "seed": i * 100})
        router.finished(index)
        assert r.status == 200, r.body
        latency[i] = time.monotonic() - begin

    threads, due = [], time.monotonic()
    for i, (n, steps) in enumerate(jobs):
        due += gaps[i]
        time.sleep(max(0, due - time.monotonic()))
        threads.append(threading.Thread(target=send, args=(i, n, steps)))
        threads[-1].start()
    for t in threads:
        t.join()
    router.done = True
    scraper.join()
    for server in servers:
        server.stop()
    return sorted(latency)


def main():
    jobs = work(1)
    mean = sum(n * (steps * LANE_MS + DECODE_MS) for n, steps in jobs) / len(jobs) / 1e3
    rng = random.Random(2)
    gaps = [rng.expovariate(3 * LOAD / mean) for _ in jobs]
    print("%d requests, %.1f ms of work each, at %.0f %% of three replicas" % (REQUESTS, mean * 1e3, 100 * LOAD))
    result = {}
    for name, by_backlog in (("least connections", False), ("least backlog", True)):
        latency = run(by_backlog, jobs, gaps)
        at = {p: latency[min(len(latency) - 1, int(len(latency) * p / 100))] * 1e3 for p in (50, 90, 99)}
        result[name] = at
        print("%-18s p50 %6.1f ms  p90 %6.1f ms  p99 %6.1f ms" % (name, at[50], at[90], at[99]), flush=True)
    print(json.dumps({"p99_ratio": round(result["least backlog"][99] / result["least connections"][99], 3)}))


if __name__ == "__main__":
    main()

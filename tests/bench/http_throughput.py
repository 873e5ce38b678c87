"""The server's own cost: imfd with a fake engine of zero cost beside a trivial libmicrohttpd handler
in the same kind of loop (trivial_server.c), one loop thread each, under wrk.

usage: http_throughput.py IMFD TRIVIAL_SERVER [SECONDS [ROUNDS]]

Rounds alternate between the two, so that a busy machine disturbs both alike. Processor time per
request is printed too: it says the same on a machine that has other things to do."""
import os
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "http"))
os.environ["IMFD"] = sys.argv[1]
from imfd_server import Server  # noqa: E402  (after IMFD is set)

TRIVIAL = sys.argv[2]
SECONDS = sys.argv[3] if len(sys.argv) > 3 else "5"
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 3
PICTURE = "/v1/images/fake/207/42.png"


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wrk(pid, url, *headers):
    """Requests a second, and microseconds of processor time per request."""
    before = cpu_seconds(pid)
    arguments = ["wrk", "-t1", "-c32", "-d" + SECONDS]
    for h in headers:
        arguments += ["-H", h]
    out = subprocess.run(arguments + [url], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out and "304" not in url:
        raise AssertionError(out)
    count = int(re.search(r"(\d+) requests in", out)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    return rate, (cpu_seconds(pid) - before) / max(count, 1) * 1e6


def trivial(port, *arguments):
    process = subprocess.Popen([TRIVIAL, str(port), *arguments])
    time.sleep(0.3)
    return process


def compare(name, theirs, ours):
    """Median rate and cost of both, and their ratios."""
    rows = [(theirs(), ours()) for _ in range(ROUNDS)]
    middle = len(rows) // 2
    rate = [sorted(r[k][0] for r in rows)[middle] for k in (0, 1)]
    cost = [sorted(r[k][1] for r in rows)[middle] for k in (0, 1)]
    print("%-12s trivial %8.0f/s %6.1f us   imfd %8.0f/s %6.1f us   rate %3.0f %%  cost %3.0f %%"
          % (name, rate[0], cost[0], rate[1], cost[1], 100 * rate[1] / rate[0], 100 * cost[0] / cost[1]))


def fresh(server, clients):
    """Pictures a second when none is asked for twice, with so many clients, each waiting for its
    reply; the mean batch they make, and the processor time of a picture."""
    def counts():
        return [server.metric("imfd_batch_size_sum", stage="step"),
                server.metric("imfd_batch_size_count", stage="step"),
                server.metric("imfd_stage_duration_seconds_sum", stage="encode")]

    before, cpu = counts(), cpu_seconds(server.process.pid)
    out = subprocess.run(["wrk", "-t1", "-c%d" % clients, "-d" + SECONDS, "-s",
                          os.path.join(HERE, "fresh.lua"),
                          "http://127.0.0.1:%d" % server.port, "--", str(clients)],
                         capture_output=True, text=True, check=True).stdout
    after, cpu = counts(), cpu_seconds(server.process.pid) - cpu
    lanes, batches = after[0] - before[0], after[1] - before[1]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    print("fresh PNG    %3d clients: %7.1f pictures/s, mean batch %.2f, %.2f ms of processor time a "
          "picture, %.2f ms of it encoding%s"
          % (clients, rate, lanes / batches, 1e3 * cpu / lanes, 1e3 * (after[2] - before[2]) / lanes,
             "" if "Non-2xx" not in out else " (some were refused)"))


def main():
    print("median of %d rounds of %s s, wrk -t1 -c32; rate: imfd/trivial, cost: trivial/imfd in "
          "processor time" % (ROUNDS, SECONDS))
    with Server("--log-level", "info", device="fake") as server, tempfile.NamedTemporaryFile() as png:
        pid, base = server.process.pid, "http://127.0.0.1:%d" % server.port
        r = server.get(PICTURE)
        png.write(r.body)
        png.flush()
        small, large = trivial(server.port + 1), trivial(server.port + 2, png.name)
        try:
            compare("304", lambda: wrk(small.pid, "http://127.0.0.1:%d/" % (server.port + 1)),
                    lambda: wrk(pid, base + PICTURE, "If-None-Match: " + r.headers["ETag"]))
            compare("cached PNG", lambda: wrk(large.pid, "http://127.0.0.1:%d/" % (server.port + 2)),
                    lambda: wrk(pid, base + PICTURE))
        finally:
            small.kill()
            large.kill()
        for clients in (1, 4, 16, 64):
            fresh(server, clients)


if __name__ == "__main__":
    main()

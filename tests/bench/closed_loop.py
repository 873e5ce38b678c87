"""Mean step batch that N closed-loop clients make: each asks again as soon as it has its reply. The
engine is fake and takes the time given for a step, whatever the batch, and none for a decoding.
The issue is fullness: mean batch / min(N, max_batch).

usage: closed_loop.py IMFD [SECONDS [STEP_US,... [CLIENTS,...]]]"""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "http"))
os.environ["IMFD"] = sys.argv[1]
from imfd_server import Server  # noqa: E402  (after IMFD is set)

SECONDS = sys.argv[2] if len(sys.argv) > 2 else "3"
STEPS_US = (sys.argv[3] if len(sys.argv) > 3 else "5000,20000").split(",")
CLIENTS = (sys.argv[4] if len(sys.argv) > 4 else "2,4,8,16,64").split(",")
MAX_BATCH = 8


def main():
    print("step ms  clients  pictures/s  mean batch  of min(N, %d)" % MAX_BATCH)
    for step_us in STEPS_US:
        with Server("--max-batch", str(MAX_BATCH), "--log-level", "info",
                    device="fake:step_us=" + step_us) as server:
            for k, clients in enumerate(CLIENTS):
                def lanes():
                    return [server.metric("imfd_batch_size_" + what, stage="step") for what in ("sum", "count")]

                before = lanes()
                subprocess.run(["wrk", "-t1", "-c" + clients, "-d" + SECONDS, "-s",
                                os.path.join(HERE, "fresh.lua"), "http://127.0.0.1:%d" % server.port,
                                "--", str(k + 1)], capture_output=True, check=True)
                after = lanes()
                mean = (after[0] - before[0]) / (after[1] - before[1])
                print("%7.1f %8s %11.1f %11.2f %12.0f %%" % (
                    int(step_us) / 1e3, clients, (after[0] - before[0]) / float(SECONDS), mean,
                    100 * mean / min(int(clients), MAX_BATCH)), flush=True)


if __name__ == "__main__":
    main()

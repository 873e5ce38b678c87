"""What hostile connections cost the others: 20 healthy clients, alone and beside 1100 idle connections, some
of them within a header, and one client that pipelines as fast as it can, all from one address.

usage: http_hostile.py IMFD [SECONDS [ROUNDS]]

Healthy clients keep their connections and ask in turn for pictures out of the cache and fresh ones, with a
pause between. The server has one CPU to itself and all clients share another, where the attackers have the lowest
priority: what is measured is how the server divides its time, not who gets the clients' CPU. Quiet and hostile
rounds alternate, so that a busy machine disturbs both alike; the 99th percentile of each is the median of the
rounds. Nobody healthy may be refused or lose a connection."""
import os
import select
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "http"))
HEALTHY, IDLE, PAUSE = 20, 1100, 0.02

ATTACK = """
import os, socket, sys
os.nice(19)  # its own work would be another machine's
address = ("127.0.0.1", int(sys.argv[1]))
idle = []
ask = b"GET /livez HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"
for i in range(%d):
    s = socket.create_connection(address)
    s.sendall((b"", ask, ask[:20])[i %% 3])
    idle.append(s)
print("attacking", flush=True)
def again():
    s = socket.create_connection(address)
    s.setblocking(False)
    return s
s = again()
data = ask * 1000
while True:
    for call in (lambda: s.send(data), lambda: s.recv(1 << 20)):
        try:
            call()
        except BlockingIOError:
            pass
        except OSError:
            s = again()
""" % IDLE


class Client:
    """One connection, one request at a time."""

    def __init__(self, server, number):
        self.number, self.count, self.got, self.need = number, 0, b"", None
        self.socket = server.connect()
        self.next = time.monotonic() + PAUSE * number / HEALTHY

    def ask(self, now):
        self.count += 1
        seed = 1 if self.count % 2 else self.number * 1000000 + self.count
        self.socket.sendall(b"GET /v1/images/fake/1/%d.png HTTP/1.1\r\nHost: x\r\n\r\n" % seed)
        self.start, self.got, self.need = now, b"", None

    def read(self):
        """Seconds the request took, once its reply is complete."""
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise AssertionError("a healthy connection was closed")
        self.got += piece
        if self.need is None and b"\r\n\r\n" in self.got:
            head = self.got.partition(b"\r\n\r\n")[0]
            if not head.startswith(b"HTTP/1.1 200 "):
                raise AssertionError(head)
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            self.need = len(head) + 4 + length
        return time.monotonic() - self.start if self.need == len(self.got) else None


def measure(clients, seconds):
    poll, times = select.epoll(), []
    by_fd = {c.socket.fileno(): c for c in clients}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    end, busy = time.monotonic() + seconds, set()
    while True:
        now = time.monotonic()
        for c in clients:
            if c not in busy and now >= c.next and now < end:
                c.ask(now)
                busy.add(c)
        if now >= end and not busy:
            break
        for fd, _ in poll.poll(0.001):
            c = by_fd[fd]
            took = c.read()
            if took is not None:
                times.append(took)
                busy.discard(c)
                c.next = time.monotonic() + PAUSE
    times.sort()
    return times


def main():
    os.environ["IMFD"] = sys.argv[1]
    from imfd_server import Server  # after IMFD is set
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cpus[1:2] or cpus)
    with Server("--png-level", "0", "--cache-bytes", "64M", device="fake:step_us=1000",
                prefix=("taskset", "--cpu-list", str(cpus[0]))) as server:
        clients = [Client(server, i) for i in range(HEALTHY)]
        measure(clients, 1)
        worst = {"quiet": [], "hostile": []}
        for _ in range(rounds):
            for name in worst:
                attack = None
                if name == "hostile":
                    attack = subprocess.Popen([sys.executable, "-c", ATTACK, str(server.port)], stdout=subprocess.PIPE)
                    attack.stdout.readline()
                times = measure(clients, seconds)
                if attack:
                    attack.kill()
                    attack.wait()
                worst[name].append(times[int(len(times) * 0.99)])
                print("%-8s %6d replies, p50 %6.2f ms, p99 %6.2f ms" % (
                    name, len(times), 1e3 * times[len(times) // 2], 1e3 * worst[name][-1]), flush=True)
        quiet, hostile = (sorted(w)[rounds // 2] for w in worst.values())
        print("p99: quiet %.2f ms, hostile %.2f ms, %.2f times; none refused, none closed; idle connections that "
              "made room: %d" % (1e3 * quiet, 1e3 * hostile, hostile / quiet, server.metric("imfd_connections_evicted_total")))


if __name__ == "__main__":
    main()

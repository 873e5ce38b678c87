"""Many clients at once: sharing batches, limits, cancellation, drain; memory and connections stay put."""
import base64
import http.client
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

from imfd_server import SLOW, Server, ServerTest, in_threads, post_bytes, read_reply

PHASES = ("queued", "running", "decoding", "encoding", "sending")
# AddressSanitizer keeps freed memory for a while, which would look like a leak.
SMALL_QUARANTINE = {"ASAN_OPTIONS": "quarantine_size_mb=4"}


def rst_close(s):
    """Closes with a reset instead of a FIN."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    s.close()


class Sharing(ServerTest):
    device = "fake:step_us=3000"
    flags = ("--max-batch", "8", "--cache-bytes", "0")

    def test_batches_are_shared(self):
        """Different class, guidance and steps run together. All are sent before the first reply is read, so that
        it does not matter how fast clients are."""
        rng = random.Random(1)
        with Server("--max-batch", "8", device="fake:step_us=20000") as server:
            for _ in range(3):
                sockets = [server.connect() for _ in range(32)]
                asks = [post_bytes({"class": i, "seed": i, "omega": 1 + i / 7, "steps": rng.choice([1, 2, 4])})
                        for i in range(32)]
                for s, ask in zip(sockets, asks):
                    s.sendall(ask)
                for s in sockets:
                    self.assertEqual(read_reply(s.makefile("rb")).status, 200)
                    s.close()
            lanes = server.metric("imfd_batch_size_sum", stage="step")
            self.assertGreater(lanes / server.metric("imfd_batch_size_count", stage="step"), 2)

    def test_same_bytes_alone_and_together(self):
        """Mixed requests at random concurrency give what they give one by one."""
        rng = random.Random(2)
        count = 1000 if SLOW == 1 else int(300 / SLOW)
        asks = [{"class": rng.randrange(1000), "seed": rng.randrange(50), "steps": rng.choice([1, 1, 2, 3]),
                 "omega": rng.choice([1.5, 8]), "n": rng.choice([1, 1, 1, 2, 5]),
                 "priority": rng.randrange(10)} for _ in range(count)]
        alone = [[d["b64_json"] for d in self.server.generate(a).json()["data"]] for a in asks]
        together = [None] * count
        order = list(range(count))
        rng.shuffle(order)
        lock = threading.Lock()

        def client():
            while True:
                with lock:
                    if not order:
                        return
                    i = order.pop()
                kind = i % 3
                if kind == 0 and asks[i]["n"] == 1:
                    r = self.server.generate(asks[i], accept="image/png")
                    together[i] = [base64.b64encode(r.body).decode()]
                else:
                    r = self.server.generate(asks[i])
                    together[i] = [d["b64_json"] for d in r.json()["data"]]

        in_threads([client] * 16)
        for i in range(count):
            self.assertTrue(alone[i] == together[i], asks[i])

    def test_small_requests_pass_large_ones(self):
        done = []
        large = threading.Thread(target=lambda: done.append(
            self.server.generate({"class": 1, "n": 64, "steps": 8}).status))
        large.start()
        self.server.wait_metric("imfd_requests_running", 1)
        self.assertEqual(self.server.generate({"class": 2}).status, 200)
        self.assertEqual(done, [], "the large request should still run")
        large.join()
        self.assertEqual(done, [200])

    def test_identical_requests_are_computed_once(self):
        before = self.server.metric("imfd_images_total")
        ask = {"class": 3, "seed": 99, "steps": 16}
        bodies = in_threads([lambda: self.server.generate(ask, accept="image/png").body] * 10)
        self.assertEqual(len(set(bodies)), 1)
        self.assertLess(self.server.metric("imfd_images_total") - before, 10)
        self.assertGreater(self.server.metric("imfd_coalesced_total"), 0)


class ClosedLoop(ServerTest):
    # Small pictures: it is about the scheduler, and encoders are slow under a sanitizer.
    device = "fake:size=64,step_us=30000"
    flags = ("--max-batch", "8", "--cache-bytes", "0")

    def test_mean_batch(self):
        """Clients that ask again as soon as they are answered share batches, each picture in one. How full
        batches are is a matter of speed: tests/bench/closed_loop.py measures it."""
        def client(k, first, requests):
            connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60 * SLOW)
            for i in range(first, first + requests):
                connection.request("GET", "/v1/images/fake/%d/%d.png" % (k, i))
                reply = connection.getresponse()
                reply.read()
                self.assertEqual(reply.status, 200)
            connection.close()

        def counts():
            return [self.server.metric("imfd_batch_size_" + what, stage="step") for what in ("sum", "count")]

        for clients in (2, 4, 8, 16):
            # The first few rounds teach the scheduler that these clients come back.
            in_threads([lambda k=k: client(k, 1000 * clients, 6) for k in range(clients)])
            before = counts()
            in_threads([lambda k=k: client(k, 1000 * clients + 100, 24) for k in range(clients)])
            lanes, batches = (b - a for a, b in zip(before, counts()))
            print("%d clients: mean batch %.2f" % (clients, lanes / batches), end="; ", file=sys.stderr)
            self.assertEqual(lanes, 24 * clients)
            self.assertLessEqual(batches, lanes)
            if clients >= 8:
                self.assertLess(batches, lanes)


class Overload(ServerTest):
    device = "fake:step_us=30000"
    environment = SMALL_QUARANTINE
    flags = ("--max-queue", "16", "--max-batch", "2", "--cache-bytes", "0")

    def test_queue_full(self):
        """Beyond the queue only 503s, with a truthful Retry-After; health answers all the while."""
        stop, answered, statuses = threading.Event(), [0], []

        def watch():
            connection = http.client.HTTPConnection(self.server.host, self.server.port)
            while not stop.is_set():
                connection.request("GET", "/livez")
                self.assertEqual(connection.getresponse().read(), b'{"status":"live"}')
                answered[0] += 1
                time.sleep(0.005)
            connection.close()

        def client(i):
            for k in range(6):
                r = self.server.generate({"class": i, "seed": k})
                statuses.append(r.status)
                if r.status == 503:
                    self.assertEqual(r.error()["type"], "overloaded")
                    ms, seconds = int(r.headers["retry-after-ms"]), int(r.headers["Retry-After"])
                    self.assertTrue(1 <= ms <= seconds * 1000 < ms + 1000, (ms, seconds))

        watcher = threading.Thread(target=watch)
        watcher.start()
        memory = []
        for _ in range(3):
            in_threads([lambda i=i: client(i) for i in range(40)])
            memory.append(self.server.memory())
        stop.set()
        watcher.join()
        self.assertEqual(set(statuses), {200, 503})
        self.assertEqual(self.server.metric("imfd_rejected_total", reason="queue"), statuses.count(503))
        self.assertGreater(answered[0], 3)
        print("resident after each flood, MB:", [round(m / 1e6, 1) for m in memory], file=sys.stderr)
        self.assertLess(memory[-1] - memory[0], 8e6 if SLOW == 1 else 12e6)

    def test_larger_than_the_queue(self):
        r = self.server.generate({"class": 1, "n": 17})
        self.assertEqual((r.status, r.error()["param"]), (400, "n"))

    def test_deadline_refused_at_arrival(self):
        self.server.generate({"class": 1, "seed": 12345})  # the speed is known
        before = self.server.metric("imfd_network_evaluations_total")
        r = self.server.generate({"class": 1, "steps": 64, "timeout_ms": 100})
        self.assertEqual((r.status, r.error()["code"]), (504, "deadline_exceeded"))
        self.assertEqual(r.headers["x-should-retry"], "false")
        self.assertEqual(self.server.metric("imfd_network_evaluations_total"), before)


class Cancellation(ServerTest):
    device = "fake:step_us=20000"
    environment = SMALL_QUARANTINE
    flags = ("--max-batch", "2", "--cache-bytes", "0", "--max-queue", "1000")

    def settle(self):
        self.server.wait_metric("imfd_queue_images", 0, 20)
        self.server.wait_metric("imfd_requests_running", 0)
        self.server.wait_metric("imfd_connections", 0, state="writing")

    def test_waiting_and_running(self):
        for close in (socket.socket.close, rst_close):
            before = self.server.metric("imfd_cancelled_total")
            socks = []
            for i in range(20):
                s = self.server.connect()
                s.sendall(post_bytes({"class": i, "steps": 10}))
                socks.append(s)
            self.server.wait_metric("imfd_connections", 20 + 1, state="waiting")
            for s in socks:
                close(s)
            self.server.wait_metric("imfd_cancelled_total", before + 20)
            self.settle()
        for phase in ("queued", "running"):
            self.assertGreater(self.server.metric("imfd_cancelled_total", phase=phase), 0)
        self.server.wait_log(r"POST /v1/generate 499 ")

    def test_while_streaming(self):
        before = self.server.metric("imfd_cancelled_total")
        for accept in ("application/json", "multipart/mixed", "text/event-stream", "application/x-npy"):
            s = self.server.connect()
            s.sendall(post_bytes({"class": 1, "n": 30, "steps": 3}, "Accept: %s\r\n" % accept))
            s.recv(100000)
            s.recv(100000)
            s.close()
        self.server.wait_metric("imfd_cancelled_total", before + 4)
        self.settle()

    def access_lines(self, names):
        """What the log says of each request that carries one of these ids: status, n, cancelled phase."""
        lines = {}
        for match in re.finditer(r" POST /v1/generate (\d+) \d+ \S+ms (\S+)(?: n=(\d+)\b(.*))?\n", self.server.log()):
            if match[2] in names:
                self.assertNotIn(match[2], lines, "two lines for one request")
                phase = re.search(r" cancelled=(\w+)", match[4] or "")
                lines[match[2]] = (int(match[1]), int(match[3] or 0), phase and phase[1])
        return lines

    def accounts(self):
        m = self.server.metric
        return {"accepted": m("imfd_accepted_images_total"),
                **{o: m("imfd_ended_images_total", outcome=o) for o in ("sent", "failed", "cancelled")},
                **{p: m("imfd_cancelled_total", phase=p) for p in PHASES},
                **{p + " images": m("imfd_cancelled_images_total", phase=p) for p in PHASES}}

    def abort_half(self, seed, clients, requests):
        """Clients half of which hang up at a random moment. Returns what each request's client did:
        "served" or "aborted", by request id."""
        did = {}

        def client(k):
            r = random.Random("%d %d" % (seed, k))
            for i in range(requests):
                name = "abort-%d-%d-%d" % (seed, k, i)
                s = self.server.connect()
                accept = r.choice(["application/json", "text/event-stream", "multipart/mixed", "image/png"])
                n = 1 if accept == "image/png" else r.choice([1, 1, 3])
                s.sendall(post_bytes({"class": r.randrange(1000), "steps": r.randrange(1, 4), "n": n},
                                     "Accept: %s\r\nX-Request-Id: %s\r\n" % (accept, name)))
                if r.random() < 0.5:
                    time.sleep(r.random() * 0.3)
                    did[name] = "aborted"
                    r.choice([socket.socket.close, rst_close])(s)
                else:
                    self.assertEqual(read_reply(s.makefile("rb")).status, 200)
                    did[name] = "served"
                    s.close()

        in_threads([lambda k=k: client(k) for k in range(clients)])
        self.settle()
        self.server.wait_metric("imfd_lanes", 0)
        return did

    def test_half_the_clients_abort(self):
        """Every accepted request and each of its pictures is counted once, in the way that the access
        log tells too; nothing is left over, and memory stays."""
        self.settle()
        files, memory = self.server.descriptors(), []
        for round_ in range(4):
            before = self.accounts()
            did = self.abort_half(round_, 24, 3)
            change = {k: v - before[k] for k, v in self.accounts().items()}
            lines = self.access_lines(did)
            # A reset may overtake a request, which then never was one.
            self.assertEqual([name for name in did if name not in lines and did[name] == "served"], [])
            for name, (status, n, phase) in lines.items():
                # Who hung up after the last byte had been handed to the kernel was served.
                self.assertIn(status, (200,) if did[name] == "served" else (200, 499), name)
                self.assertEqual(status == 499 and n > 0, phase is not None, name)
            phases = [phase for _, _, phase in lines.values() if phase is not None]
            self.assertEqual({p: change[p] for p in PHASES}, {p: phases.count(p) for p in PHASES})
            self.assertEqual(change["accepted"], sum(n for _, n, _ in lines.values()))
            self.assertEqual(change["accepted"], change["sent"] + change["cancelled"])
            self.assertEqual(change["failed"], 0)
            self.assertEqual(change["cancelled"], sum(change[p + " images"] for p in PHASES))
            served = sum(n for status, n, _ in lines.values() if status == 200)
            self.assertGreaterEqual(change["sent"], served)
            self.assertLessEqual(change["cancelled"], sum(n for s, n, _ in lines.values() if s == 499))
            self.assertGreater(len(phases), 3)
            memory.append(self.server.memory())
        print("resident after each round, MB:", [round(m / 1e6, 1) for m in memory], file=sys.stderr)
        self.assertLess(memory[-1] - memory[1], 8e6 if SLOW == 1 else 12e6)
        deadline = time.monotonic() + 10
        while self.server.descriptors() > files + 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertLessEqual(self.server.descriptors(), files + 1)

    def test_failures_are_no_cancellations(self):
        """Part of a reply and then a broken engine: the client stayed, so 500 is logged."""
        with Server("--max-batch", "1", device="fake:step_us=2000,fail_label=7") as server:
            s = server.connect()
            s.sendall(post_bytes({"classes": [1, 2, 7, 3]}, "Accept: multipart/mixed\r\n"))
            try:
                self.assertEqual(read_reply(s.makefile("rb")).status, 500)  # before the first picture
            except (EOFError, ConnectionError, ValueError):
                pass  # the reply had begun: it was cut
            s.close()
            server.wait_log(r"POST /v1/generate 500 .* n=4 ")
            self.assertEqual(server.metric("imfd_cancelled_total"), 0)
            sent = server.metric("imfd_ended_images_total", outcome="sent")
            self.assertLessEqual(sent, 2)
            self.assertEqual(server.metric("imfd_ended_images_total", outcome="failed"), 4 - sent)


class Drain(unittest.TestCase):
    def test_under_load(self):
        """No truncated body, exit 0, new connections refused, /readyz says so."""
        server = Server("--cache-bytes", "0", "--max-queue", "1000", device="fake:step_us=10000")
        results, errors = [], []

        def client(i):
            try:
                s = server.connect()
                f = s.makefile("rb")
                for k in range(1000):
                    accept = ["application/json", "image/png", "multipart/mixed"][i % 3]
                    n = 1 if i % 3 == 1 else 5
                    s.sendall(post_bytes({"class": i, "seed": k * 10, "n": n}, "Accept: %s\r\n" % accept))
                    r = read_reply(f)
                    if r is None:
                        return
                    results.append(r.status)
                    if r.status == 503:
                        assert r.error()["type"] == "draining"
                    if r.headers.get("connection") == "close":
                        return
            except (ConnectionResetError, BrokenPipeError):
                pass  # the idle connection was closed while the next request was on its way
            except BaseException as e:  # pylint: disable=broad-except
                errors.append(e)

        idle = server.connect()
        idle.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        idle_file = idle.makefile("rb")
        self.assertEqual(read_reply(idle_file).status, 200)
        threads = [threading.Thread(target=client, args=(i,)) for i in range(12)]
        for t in threads:
            t.start()
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        server.wait_log(r"SIGTERM: draining")
        idle.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        r = read_reply(idle_file)
        if r is not None:
            self.assertEqual((r.status, r.json()), (503, {"status": "draining"}))
        with self.assertRaises(ConnectionRefusedError):
            server.connect()
        self.assertEqual(server.wait_exit(), 0)
        for t in threads:
            t.join()
        server.check_log()
        self.assertEqual(errors, [])
        self.assertIn(200, results)
        self.assertLessEqual(set(results), {200, 503})

    def test_second_signal(self):
        server = Server(device="fake:step_us=20000000")
        s = server.connect()
        s.sendall(post_bytes({"class": 1}))
        server.wait_metric("imfd_requests_running", 1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_log(r"SIGTERM: draining, ")
        with self.assertRaises(subprocess.TimeoutExpired):
            server.process.wait(0.3)
        server.process.send_signal(signal.SIGTERM)
        self.assertNotEqual(server.wait_exit(5), 0)
        s.close()

    def test_drain_timeout(self):
        server = Server("--drain-timeout", "1", device="fake:step_us=4000000")
        s = server.connect()
        s.sendall(post_bytes({"class": 1}))
        server.wait_metric("imfd_requests_running", 1)
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait_exit(20), 1)
        server.check_log()
        s.close()

    def test_kill_and_restart(self):
        server = Server()
        server.process.kill()
        server.process.wait()
        with Server(listen="127.0.0.1:%d" % server.port) as again:
            self.assertEqual(again.generate({"class": 1}).status, 200)


if __name__ == "__main__":
    unittest.main()

"""HTTP as it goes over the wire: old versions, odd framing, slow and vanishing clients."""
import socket
import threading
import time
import unittest

from imfd_server import SLOW, Server, ServerTest, post_bytes, read_reply

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


class Protocol(ServerTest):
    device = "fake:step_us=20000"
    flags = ("--max-body", "4096")

    def talk(self, data, replies=1, head=False):
        with self.server.connect() as s:
            s.sendall(data)
            f = s.makefile("rb")
            return [read_reply(f, head) for _ in range(replies)]

    def test_http10(self):
        with self.server.connect() as s:
            s.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            f = s.makefile("rb")
            self.assertEqual(read_reply(f).status, 200)
            self.assertEqual(f.read(), b"")  # closed after the reply
        body = b'{"class":1,"n":3}'
        [r] = self.talk(b"POST /v1/generate HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                        % (len(body), body))
        self.assertNotIn("transfer-encoding", r.headers)
        self.assertEqual(len(r.json()["data"]), 3)

    def test_keep_alive_and_pipelining(self):
        data = GET + post_bytes({"class": 1, "seed": 1}) + b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        with self.server.connect() as s:
            s.sendall(data)
            f = s.makefile("rb")
            self.assertEqual(read_reply(f).json(), {"status": "live"})
            self.assertEqual(read_reply(f).json()["data"][0]["seed"], 1)
            self.assertEqual(read_reply(f, head=True).status, 200)
            s.sendall(GET)
            self.assertEqual(read_reply(f).status, 200)

    def test_expect(self):
        body = b'{"class":1}'
        head = (b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n")
        with self.server.connect() as s:
            s.sendall(head % len(body))
            f = s.makefile("rb")
            self.assertEqual(read_reply(f).status, 100)
            s.sendall(body)
            self.assertEqual(read_reply(f).status, 200)
        with self.server.connect() as s:  # refused before the body travels
            s.sendall(head % 5000)
            f = s.makefile("rb")
            self.assertEqual(read_reply(f).status, 413)
        [r] = self.talk(b"GET /livez HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n")
        self.assertEqual(r.status, 400)

    def test_chunked_upload(self):
        head = (b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n")
        [r, after] = self.talk(head + b'5\r\n{"cla\r\n6\r\nss":1}\r\n0\r\n\r\n' + GET, 2)
        self.assertEqual((r.status, after.status), (200, 200))
        [r] = self.talk(head + b"1000\r\n" + b" " * 4096 + b"\r\n400\r\n" + b" " * 1024 + b"\r\n0\r\n\r\n")
        self.assertEqual((r.status, r.error()["code"]), (413, "body_too_large"))

    def test_body_limit(self):
        [r] = self.talk(post_bytes({"class": "x" * 5000}))
        self.assertEqual((r.status, r.error()["code"]), (413, "body_too_large"))

    def test_early_refusal_keeps_the_connection(self):
        body = b'{"class":1}'
        bad = (b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
               b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        [r, after] = self.talk(bad + GET, 2)
        self.assertEqual((r.status, after.status), (415, 200))

    def test_smuggling(self):
        cases = [
            b"Content-Length: 5\r\nContent-Length: 6\r\n",
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: identity\r\n",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            b"Content-Length: -5\r\n", b"Content-Length: 5x\r\n", b"Host: y\r\n",
        ]
        for extra in cases:
            with self.subTest(extra=extra):
                with self.server.connect() as s:
                    s.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: x\r\n" + extra + b"\r\nhello" + GET)
                    f = s.makefile("rb")
                    self.assertEqual(read_reply(f).status, 400)
                    self.assertEqual(f.read(), b"")  # nothing after it is taken for a request

    def test_targets(self):
        [r] = self.talk(b"GET /livez?x=" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual((r.status, r.error()["code"]), (414, "uri_too_long"))
        [r] = self.talk(b"GET /livez?x=" + b"a" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual((r.status, r.error()["code"]), (414, "uri_too_long"))
        [r] = self.talk(b"GET http://x/livez HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(r.status, 200)
        [r] = self.talk(b"GET /livez HTTP/1.1\r\n\r\n")
        self.assertEqual((r.status, r.error()["code"]), (400, "bad_request"))
        [r] = self.talk(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100000 + b"\r\n\r\n")
        self.assertEqual((r.status, r.error()["code"]), (431, "header_too_large"))
        [r] = self.talk(b"GET /livez HTTP/3.0\r\nHost: x\r\n\r\n")
        self.assertEqual((r.status, r.error()["code"]), (505, "http_version"))
        [r] = self.talk(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(r.status, 200)

    def test_garbage(self):
        for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), b"\r\n" * 100,
                     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET\r\n\r\n", b"\0" * 1000, b"GET /li"):
            with self.server.connect() as s:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                try:
                    s.makefile("rb").read()
                except ConnectionResetError:
                    pass
        self.assertEqual(self.server.get("/livez").status, 200)

    def test_request_id(self):
        r = self.server.get("/livez", x_request_id="abc-1.2:3")
        self.assertEqual(r.headers["X-Request-Id"], "abc-1.2:3")
        for bad in ("a" * 129, "a b", "<script>", "\u00e9"):
            r = self.server.get("/livez", x_request_id=bad)
            self.assertRegex(r.headers["X-Request-Id"], r"^[0-9a-f]{32}$")

    def test_half_close_cancels(self):
        before = self.server.metric("imfd_cancelled_total")
        with self.server.connect() as s:
            s.sendall(post_bytes({"class": 1, "steps": 20}))
            time.sleep(0.1)
            s.shutdown(socket.SHUT_WR)
            self.assertEqual(s.makefile("rb").read(), b"")
        self.server.wait_metric("imfd_cancelled_total", before + 1)


class SlowClients(unittest.TestCase):
    def test_slow_loris(self):
        with Server("--header-timeout-ms", "600", "--body-timeout-ms", "600", "--idle-timeout-ms",
                    "1500") as server:
            def drip(data):
                """A byte every 50 ms; returns what comes back."""
                s = server.connect()
                got = b""
                s.settimeout(0.05)
                try:
                    for i in range(len(data)):
                        s.sendall(data[i:i + 1])
                        try:
                            got = s.recv(10000)
                            break
                        except socket.timeout:
                            pass
                except (BrokenPipeError, ConnectionResetError):
                    pass
                s.close()
                return got

            for data in (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 50, b"G" * 200,
                         b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
                         + b" " * 400):
                if data.startswith(b"POST"):
                    s = server.connect()
                    s.sendall(data[:120])
                    got = s.recv(10000)
                    s.close()
                else:
                    got = drip(data)
                self.assertIn(b"408 Request Timeout", got)
                self.assertIn(b'"code":"request_timeout"', got)
            self.assertGreaterEqual(server.metric("imfd_connections_timed_out_total"), 3)
            # An idle connection between requests is closed without a word.
            with server.connect() as s:
                s.sendall(GET)
                f = s.makefile("rb")
                self.assertEqual(read_reply(f).status, 200)
                self.assertEqual(f.read(), b"")

    def test_slow_reader(self):
        """One that reads nothing is cut off; the others and the memory do not notice."""
        with Server("--send-timeout-ms", "700", "--max-n", "1000", "--max-queue", "5000",
                    "--cache-bytes", "0") as server:
            server.generate({"class": 1, "n": 64})
            before, slow = server.memory(), []
            for accept in ("application/json", "text/event-stream", "multipart/mixed"):
                s = socket.socket()
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                s.connect((server.host, server.port))
                s.sendall(post_bytes({"class": 1, "n": 1000}, "Accept: %s\r\n" % accept))
                slow.append(s)
            time.sleep(0.3 * SLOW)
            self.assertEqual(server.generate({"class": 1, "n": 5}).status, 200)
            self.assertLess(server.memory() - before, 100e6 * SLOW)
            server.wait_metric("imfd_slow_readers_total", 3, 20)
            server.wait_metric("imfd_queue_images", 0)
            server.wait_metric("imfd_requests_running", 0)
            for s in slow:
                s.close()

    def test_patient_reader_is_served(self):
        """Slow but steady: all comes through."""
        with Server("--send-timeout-ms", "2000", "--max-n", "100") as server:
            s = server.connect()
            s.sendall(post_bytes({"class": 1, "n": 20}, "Connection: close\r\n"))
            got = b""
            while True:
                piece = s.recv(30000)
                if not piece:
                    break
                got += piece
                time.sleep(0.003)
            self.assertTrue(got.endswith(b"0\r\n\r\n"))

    def test_pings(self):
        with Server(device="fake:step_us=7000000") as server:
            s = server.connect()
            s.sendall(post_bytes({"class": 1}, "Accept: text/event-stream\r\n"))
            f = s.makefile("rb")
            while f.readline().strip():
                pass
            f.readline()  # the chunk's size
            self.assertEqual(f.readline(), b": ping\n")  # before the first picture
            s.close()

    def test_connection_limit(self):
        """At the limit the connection that has been idle longest makes room."""
        with Server("--max-connections", "3") as server:
            held = [server.connect() for _ in range(3)]
            for i in (1, 0, 2):
                held[i].sendall(GET)
                self.assertEqual(read_reply(held[i].makefile("rb")).status, 200)
            with server.connect() as extra:
                extra.sendall(GET)
                self.assertEqual(read_reply(extra.makefile("rb")).status, 200)
                self.assertEqual(held[1].recv(1), b"")
                for i in (0, 2):  # the others are there still
                    held[i].sendall(GET)
                    self.assertEqual(read_reply(held[i].makefile("rb")).status, 200)
                self.assertIn(b"imfd_connections_evicted_total 1\n", self.metrics(extra))
            for s in held:
                s.close()

    @staticmethod
    def metrics(s):
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        return read_reply(s.makefile("rb")).body

    def test_unfinished_bodies_make_room(self):
        head = (b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Expect: 100-continue\r\n")
        for fields, body in ((b"Content-Length: 20\r\n", b""), (b"Content-Length: 20\r\n", b"{"),
                             (b"Transfer-Encoding: chunked\r\n", b"5\r\n")):
            with Server("--max-connections", "3", "--body-timeout-ms", "3600000") as server:
                held = [server.connect() for _ in range(3)]
                for s in held:
                    s.sendall(head + fields + b"\r\n")
                    self.assertEqual(read_reply(s.makefile("rb")).status, 100)
                    s.sendall(body)
                with server.connect() as extra:
                    extra.sendall(GET)
                    self.assertEqual(read_reply(extra.makefile("rb")).status, 200)
                    try:
                        self.assertEqual(held[0].recv(1), b"")
                    except ConnectionResetError:
                        pass
                for s in held:
                    s.close()

    def test_busy_connections_stay(self):
        """When all are busy, newcomers wait in the kernel until one is not."""
        with Server("--max-connections", "3", device="fake:step_us=300000") as server:
            held = [server.connect() for _ in range(3)]
            for i, s in enumerate(held):
                s.sendall(post_bytes({"class": 1, "seed": i, "steps": 2},
                                     "Accept: text/event-stream\r\n"))
                self.assertIn(b"200", s.recv(12))  # the header comes before the pictures
            with server.connect() as extra:
                extra.sendall(GET)
                self.assertEqual(read_reply(extra.makefile("rb")).status, 200)
            for s in held:
                self.until(s, b"event: done")
                s.close()

    @staticmethod
    def until(s, end):
        got = b""
        while end not in got:
            piece = s.recv(65536)
            if not piece:
                raise EOFError(got[-200:])
            got += piece
        return got

    def test_connections_per_address(self):
        """An address at its limit loses its own idle connections; when all are busy, it is refused."""
        with Server("--max-connections-per-address", "2", device="fake:step_us=300000") as server:
            first, second = server.connect(), server.connect()
            first.sendall(GET)
            self.assertEqual(read_reply(first.makefile("rb")).status, 200)
            events = "Accept: text/event-stream\r\n"  # whose header comes before the pictures
            second.sendall(post_bytes({"class": 1, "steps": 3}, events))
            self.assertIn(b"200", second.makefile("rb").readline())
            with server.connect() as third:
                self.assertEqual(first.recv(1), b"")
                third.sendall(post_bytes({"class": 2, "steps": 3}, events))
                self.assertIn(b"200", third.makefile("rb").readline())
                with server.connect() as fourth:
                    refused = read_reply(fourth.makefile("rb"))
                self.assertEqual((refused.status, refused.error()["code"]),
                                 (429, "too_many_connections_from_address"))
                self.assertEqual(refused.headers["retry-after"], "1")
            first.close()
            second.close()
        with Server("--max-connections-per-address", "1", "--trusted-proxies", "127.0.0.1") as server:
            both = [server.connect() for _ in range(2)]  # a proxy speaks for many
            for s in both:
                s.sendall(GET)
                self.assertEqual(read_reply(s.makefile("rb")).status, 200)
                s.close()


if __name__ == "__main__":
    unittest.main()

"""RFC 9112 as a table: name, bytes, answer. Each case goes over a connection of its own, once in one piece
and once byte by byte; a refusal must be the only reply, close the connection, be an error of the contract,
and be logged and counted under the method that was asked for."""
import socket
import unittest

from imfd_server import ServerTest, read_reply

JSON = b'{"class":1,"seed":1}'
HELLO = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def get(fields=b"", target=b"/livez", version=b"HTTP/1.1", host=b"Host: x\r\n"):
    return b"GET " + target + b" " + version + b"\r\n" + host + fields + b"\r\n"


def post(fields, body=b"", method=b"POST"):
    return (method + b" /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + fields + b"\r\n"
            + body)


def chunked(body, fields=b""):
    return post(b"Transfer-Encoding: chunked\r\n" + fields, body)


# What is sent, and the statuses that come back. With two of them the connection went on.
ACCEPTED = [
    ("plain", get(), [200]),
    ("one empty line before", b"\r\n" + get(), [200]),
    ("two requests", get() + get(), [200, 200]),
    ("an empty line between", get() + b"\r\n" + get(), [200, 200]),
    ("no blank after the colon", get(b"X:y\r\n"), [200]),
    ("blanks and tabs around a value", get(b"X: \t y \t \r\n"), [200]),
    ("an empty value", get(b"X:\r\n"), [200]),
    ("bytes above 127 in a value", get(b"X: \xc3\xa9\xff\r\n"), [200]),
    ("every token character in a name", get(b"!#$%&'*+-.^_`|~09azAZ: 1\r\n"), [200]),
    ("names in any case", get(b"cOnNeCtIoN: keep-alive\r\n") + get(), [200, 200]),
    ("Host with a port", get(host=b"Host: example.org:8080\r\n"), [200]),
    ("Host with an empty port", get(host=b"Host: example.org:\r\n"), [200]),
    ("Host of IPv6", get(host=b"Host: [::1]:8080\r\n"), [200]),
    ("absolute target", get(target=b"http://example.org/livez"), [200]),
    ("absolute target, https and a port", get(target=b"HTTPS://example.org:443/livez"), [200]),
    ("absolute target without a path", get(target=b"http://example.org"), [200]),
    ("absolute target, query alone", get(target=b"http://example.org?x"), [200]),
    ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" + get(), [200, 200]),
    ("OPTIONS of a path", b"OPTIONS /livez HTTP/1.1\r\nHost: x\r\n\r\n" + get(), [204, 200]),
    ("HTTP/1.0 without Host", b"GET /livez HTTP/1.0\r\n\r\n", [200]),
    ("HTTP/1.0 kept alive", b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + get(), [200, 200]),
    ("a later HTTP/1", get(version=b"HTTP/1.2"), [200]),
    ("close among other options", get(b"Connection: x, Close\r\n"), [200]),
    ("many ampersands", get(target=b"/livez?" + b"&" * 7000), [200]),
    ("many parameters", get(target=b"/livez?" + b"q=1&" * 1800), [200]),
    ("a large Cookie", get(b"Cookie: " + b"a=b; " * 4400 + b"\r\n"), [200]),
    ("many cookies", get(b"Cookie: a\r\n" * 2000), [200]),
    ("almost 32 KiB", get(b"X: " + b"x" * 32000 + b"\r\n"), [200]),
    ("a target of 8000 bytes", get(target=b"/livez?" + b"x" * 7993), [200]),
    ("a body with GET", get(b"Content-Length: 5\r\n") + b"hello" + get(), [200, 200]),
    ("Content-Length: 0", get(b"Content-Length: 0\r\n") + get(), [200, 200]),
    ("a blank after the length", post(b"Content-Length: 20 \r\n", JSON) + get(), [200, 200]),
    ("a tab after the length", post(b"Content-Length: 20\t\r\n", JSON) + get(), [200, 200]),
    ("zeros before the length", post(b"Content-Length: 00000000000000000000020\r\n", JSON), [200]),
    ("a chunked body", chunked(b"14\r\n" + JSON + b"\r\n0\r\n\r\n") + get(), [200, 200]),
    ("two chunks", chunked(b"5\r\n" + JSON[:5] + b"\r\nf\r\n" + JSON[5:] + b"\r\n0\r\n\r\n") + get(), [200, 200]),
    ("zeros before a chunk's size", chunked(b"00014\r\n" + JSON + b"\r\n000\r\n\r\n"), [200]),
    ("Chunked and a blank", post(b"Transfer-Encoding: Chunked \r\n", b"14\r\n" + JSON + b"\r\n0\r\n\r\n"), [200]),
    ("a chunk's extensions", chunked(b'14 ; a=b;c="d e"\r\n' + JSON + b"\r\n0;x\r\n\r\n") + get(), [200, 200]),
    ("a trailer", chunked(b"14\r\n" + JSON + b"\r\n0\r\nX: y\r\nContent-Length: 3\r\n\r\n") + get(), [200, 200]),
    ("404 keeps the connection", get(target=b"/nope") + get(), [404, 200]),
    ("405 keeps the connection", b"DELETE /livez HTTP/1.1\r\nHost: x\r\n\r\n" + get(), [405, 200]),
    ("404 reads the body", b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd" + get(), [404, 200]),
    ("Accept on two lines", post(b"Accept: text/html\r\nContent-Length: 20\r\nAccept: image/png\r\n", JSON), [200]),
]

# What is sent, and the status it is refused with; all of it, so that what follows must not be taken for a request.
REFUSED = [
    ("blank before the colon", get(b"Content-Length : 33\r\n") + HELLO, 400),
    ("tab before the colon", get(b"Content-Length\t: 33\r\n") + HELLO, 400),
    ("coding with a blank before the colon", post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n") + HELLO, 400),
    ("folded value", get(b"Content-Length:\r\n 33\r\n") + HELLO, 400),
    ("folded with a tab", get(b"X: y\r\n\tz\r\n"), 400),
    ("folded name", post(b"Transfer-Enco: chunked\r\n ding\r\n", b"0\r\n\r\n") + HELLO, 400),
    ("first field folded", get(host=b" Host: x\r\n"), 400),
    ("NUL in a value", get(b"X: a\0b\r\n"), 400),
    ("NUL in a name", get(b"X\0: b\r\n"), 400),
    ("NUL in the length", get(b"Content-Length: 0\0" + b"33\r\n") + HELLO, 400),
    ("NUL in the target", get(target=b"/livez\0/x"), 400),
    ("NUL in the version", get(version=b"HTTP/1.1\0"), 400),
    ("NUL first", b"\0" + get(), 400),
    ("blank in a name", get(b"a b: 1\r\n"), 400),
    ("no colon", get(b"abc\r\n"), 400),
    ("no name", get(b": 1\r\n"), 400),
    ("parenthesis in a name", get(b"a(b): 1\r\n"), 400),
    ("byte above 127 in a name", get(b"\xc3\xa9: 1\r\n"), 400),
    ("control byte in a value", get(b"X: a\x01b\r\n"), 400),
    ("DEL in a value", get(b"X: a\x7fb\r\n"), 400),
    ("bare CR in a value", get(b"X: a\rb\r\n"), 400),
    ("CR twice", get(b"X: a\r\r\n"), 400),
    ("bare LF after the request line", b"GET /livez HTTP/1.1\nHost: x\r\n\r\n", 400),
    ("bare LF after a field", get(b"X: a\n"), 400),
    ("bare LF at the end", b"GET /livez HTTP/1.1\r\nHost: x\r\n\n", 400),
    ("two empty lines before", b"\r\n\r\n" + get(), 400),
    ("blank in the target", get(target=b"/v1/classes?q=golden retriever"), 400),
    ("two blanks", get(target=b" /livez"), 400),
    ("tab for a blank", b"GET\t/livez HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("blank after the version", get(version=b"HTTP/1.1 "), 400),
    ("blank before the method", b" " + get(), 400),
    ("no target", b"GET HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("an empty target", b"GET  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("HTTP/0.9", b"GET /livez\r\n\r\n", 400),
    ("method that is no token", b"G(T /livez HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("method of 40 letters", b"M" * 40 + b" /livez HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("fragment", get(target=b"/livez#x"), 400),
    ("byte above 127 in the target", get(target=b"/livez?\xc3\xa9"), 400),
    ("control byte in the target", get(target=b"/livez\x1b"), 400),
    ("target without a slash", get(target=b"livez"), 400),
    ("* of GET", get(target=b"*"), 400),
    ("other scheme", get(target=b"ftp://x/livez"), 400),
    ("scheme alone", get(target=b"http://"), 400),
    ("no host in the target", get(target=b"http:///livez"), 400),
    ("user in the target", get(target=b"http://a@x/livez"), 400),
    ("authority of CONNECT", b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("no such version", get(version=b"HTTP/1.10"), 400),
    ("lower-case version", get(version=b"http/1.1"), 400),
    ("version without digits", get(version=b"HTTP/x.1"), 400),
    ("HTTP/2.0", get(version=b"HTTP/2.0"), 505),
    ("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), 400),
    ("no Host", get(host=b""), 400),
    ("no Host beside an absolute target", get(target=b"http://x/livez", host=b""), 400),
    ("two Hosts", get(b"Host: x\r\n"), 400),
    ("empty Host", get(host=b"Host:\r\n"), 400),
    ("Host with a path", get(host=b"Host: a/b\r\n"), 400),
    ("Host with a blank", get(host=b"Host: a b/c\r\n"), 400),
    ("Host with a user", get(host=b"Host: a@b\r\n"), 400),
    ("Host, port no number", get(host=b"Host: a:8x\r\n"), 400),
    ("Host, two ports", get(host=b"Host: a:1:2\r\n"), 400),
    ("Host, open bracket", get(host=b"Host: [::1\r\n"), 400),
    ("Host, list", get(host=b"Host: a, b\r\n"), 400),
    ("bad Host of HTTP/1.0", b"GET /livez HTTP/1.0\r\nHost: a b\r\n\r\n", 400),
    ("two lengths", get(b"Content-Length: 5\r\nContent-Length: 6\r\n") + b"hello" + HELLO, 400),
    ("one length twice", get(b"Content-Length: 5\r\nContent-Length: 5\r\n") + b"hello" + HELLO, 400),
    ("list of lengths", get(b"Content-Length: 5, 5\r\n") + b"hello" + HELLO, 400),
    ("empty length", get(b"Content-Length:\r\n"), 400),
    ("negative length", get(b"Content-Length: -5\r\n"), 400),
    ("signed length", post(b"Content-Length: +20\r\n", JSON), 400),
    ("hexadecimal length", get(b"Content-Length: 0x5\r\n") + b"hello", 400),
    ("fraction", get(b"Content-Length: 5.0\r\n") + b"hello", 400),
    ("blank within the length", get(b"Content-Length: 1 2\r\n"), 400),
    ("length beyond 64 bits", post(b"Content-Length: 99999999999999999999999\r\n"), 413),
    ("length and coding", chunked(b"0\r\n\r\n", b"Content-Length: 5\r\n") + HELLO, 400),
    ("coding twice", chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n") + HELLO, 400),
    ("other coding", post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 400),
    ("identity", post(b"Transfer-Encoding: identity\r\n", b"hello"), 400),
    ("coding that only ends like it", post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), 400),
    ("quoted coding", post(b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n"), 400),
    ("coding of HTTP/1.0", b"POST /nope HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("other expectation", get(b"Expect: miracles\r\n"), 400),
    ("two keys", get(b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"), 400),
    ("header over 32 KiB", get(b"X: " + b"a" * 40000 + b"\r\n"), 431),
    ("many fields over 32 KiB", get(b"a: b\r\n" * 8000), 431),
    ("header without an end", b"GET /livez HTTP/1.1\r\nX: " + b"a" * 40000, 431),
    ("target over 8000 bytes", get(target=b"/livez?" + b"&" * 8000), 414),
    ("target of 100 KB", get(target=b"/livez?x=" + b"a" * 100000), 414),
    ("chunk size not hexadecimal", chunked(b"g\r\n"), 400),
    ("chunk size empty", chunked(b"\r\n"), 400),
    ("chunk size signed", chunked(b"+14\r\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("chunk size 0x14", chunked(b"0x14\r\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("chunk size with a blank", chunked(b"14 \r\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("blank before the chunk size", chunked(b" 14\r\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("chunk size beyond 64 bits", chunked(b"10000000000000014\r\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("chunk line ends with LF", chunked(b"14\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("chunk line with a bare CR", chunked(b"14\rx\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("LF in an extension", chunked(b"14;a\nb\r\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("NUL in an extension", chunked(b"14;a\0\r\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("chunk longer than its size", chunked(b"13\r\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("chunk shorter than its size", chunked(b"15\r\n" + JSON + b"\r\n0\r\n\r\n"), 400),
    ("chunk extension of 40000", chunked(b"14;a=" + b"b" * 40000), 400),
    ("zeros in a chunk size", chunked(b"0" * 40000), 400),
    ("trailer without a colon", chunked(b"14\r\n" + JSON + b"\r\n0\r\nabc\r\n\r\n"), 400),
    ("folded trailer", chunked(b"14\r\n" + JSON + b"\r\n0\r\nX: y\r\n z\r\n\r\n"), 400),
    ("trailer with a NUL", chunked(b"14\r\n" + JSON + b"\r\n0\r\nX: \0\r\n\r\n"), 400),
    ("endless trailer", chunked(b"14\r\n" + JSON + b"\r\n0\r\n" + b"X: y\r\n" * 8000), 400),
    ("body over the limit", post(b"Content-Length: 5000\r\n", b" " * 5000), 413),
    ("chunked body over the limit", chunked(b"1388\r\n" + b" " * 5000 + b"\r\n0\r\n\r\n"), 413),
]


class Table(ServerTest):
    flags = ("--max-body", "4096")

    def talk(self, data, bytewise=False):
        """The connection's reader after the data was sent; a refused client may not get all of it out."""
        s = self.server.connect()
        try:
            if bytewise:
                for i in range(len(data)):
                    s.sendall(data[i:i + 1])
            else:
                s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return s

    def test_accepted(self):
        for name, data, statuses in ACCEPTED:
            for bytewise in (False, True) if len(data) < 1000 else (False,):
                with self.subTest(name, bytewise=bytewise), self.talk(data, bytewise) as s:
                    f = s.makefile("rb")
                    self.assertEqual([read_reply(f).status for _ in statuses], statuses)
                    s.shutdown(socket.SHUT_WR)
                    self.assertEqual(f.read(), b"")

    def test_refused(self):
        for name, data, status in REFUSED:
            for bytewise in (False, True) if len(data) < 1000 else (False,):
                with self.subTest(name, bytewise=bytewise), self.talk(data, bytewise) as s:
                    f = s.makefile("rb")
                    reply = read_reply(f)
                    self.assertEqual(reply.status, status)
                    reply.error()
                    self.assertEqual(reply.headers["content-type"], "application/json")
                    self.assertEqual(reply.headers["connection"], "close")
                    self.assertEqual(f.read(), b"")  # nothing after it is taken for a request
        self.assertEqual(self.server.get("/livez").status, 200)

    def test_logged_and_counted_as_asked(self):
        for data, method, target, label in (
                (post(b"Content-Length: +20\r\n", JSON), "POST", "/v1/generate", "POST"),
                (get(target=b"/v1/classes?q=golden retriever"), "GET", r"/v1/classes\?q=golden retriever", "GET"),
                (b"PURGE /livez HTTP/1.1\r\nHost: a b\r\n\r\n", "PURGE", "/livez", "other"),
                (b"HEAD /livez HTTP/1.1\r\n\r\n", "HEAD", "/livez", "HEAD"),
                (b"\x16\x03\x01\x02", "-", "", "other")):
            before = self.server.metric("imfd_requests_total", method=label, code="400")
            with self.talk(data) as s:
                self.assertIn(b" 400 ", s.recv(100))
            self.server.wait_log(r"127\.0\.0\.1 %s %s 400 " % (method, target))
            self.server.wait_metric("imfd_requests_total", before + 1, method=label, code="400")

    def test_head_has_no_body(self):
        """Neither for pictures that are not made yet, nor for errors: the next reply is in step."""
        for target in (b"/v1/images/fake/3/777.png", b"/livez", b"/", b"/v1/classes", b"/nope"):
            with self.talk(b"HEAD " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n" + get()) as s:
                f = s.makefile("rb")
                self.assertIn(read_reply(f, head=True).status, (200, 404))
                self.assertEqual(read_reply(f).json(), {"status": "live"})

    def test_not_modified_has_no_length(self):
        for method in (b"GET", b"HEAD"):
            with self.talk(method + b" /v1/images/fake/1/5.png HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n") as s:
                reply = read_reply(s.makefile("rb"))
                self.assertEqual(reply.status, 304)
                self.assertNotIn("content-length", reply.headers)
                self.assertNotIn("transfer-encoding", reply.headers)

    def test_lists_are_joined(self):
        tag = self.server.request("HEAD", "/v1/images/fake/1/5.png").headers["ETag"].encode()
        head = b"GET /v1/images/fake/1/5.png HTTP/1.1\r\nHost: x\r\n"
        for fields in (b'If-None-Match: "a"\r\nX: y\r\nIf-None-Match: ' + tag + b"\r\n",
                       b'If-None-Match: "a"\r\nAccept: image/png\r\nif-none-match:' + tag + b"\r\nAccept: x/y\r\n"):
            with self.talk(head + fields + b"\r\n") as s:
                self.assertEqual(read_reply(s.makefile("rb")).status, 304)
        with self.talk(get(b"Accept-Encoding: br\r\nAccept-Encoding: gzip\r\n", target=b"/openapi.json")) as s:
            self.assertEqual(read_reply(s.makefile("rb")).headers["content-encoding"], "gzip")


class Leaving(ServerTest):
    """However a client leaves, its connection is closed at once."""
    device = "fake:step_us=20000"

    def test_noticed(self):
        request = post(b"Content-Length: 20\r\n", b'{"class":1,"seed":1}')
        waits = post(b"Content-Length: 34\r\n", b'{"class":1,"seed":2,"steps":   60}')
        for data in (b"", b"GET /li", get(), get() + b"GET /li", get() + get(), request, waits,
                     b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
                     get(host=b"Host: a b\r\n"), b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"):
            for half in (False, True):
                sockets = [self.talk(data) for _ in range(5)]
                for s in sockets:
                    if half:
                        s.shutdown(socket.SHUT_WR)
                    else:
                        s.close()
                for state in ("reading", "waiting", "writing", "idle"):
                    # The connection that asks counts as waiting.
                    self.server.wait_metric("imfd_connections", 1 if state == "waiting" else 0, state=state)
                for s in sockets:
                    s.close()

    talk = Table.talk


if __name__ == "__main__":
    unittest.main()

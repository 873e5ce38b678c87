"""What the command line tests share: running imfd, reading .npy and PNG with the standard library."""
import array
import ast
import os
import struct
import subprocess
import tempfile
import unittest
import zlib

IMFD = os.environ.get("IMFD", "imfd")
TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOLDEN = os.path.join(TESTS, "golden")


def imfd(*args, stdin=None):
    """(exit status, stdout bytes, stderr text)"""
    p = subprocess.run([IMFD, *map(str, args)], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=250)
    return p.returncode, p.stdout, p.stderr.decode("utf-8", "replace")


def read_npy(data):
    """(shape, flat array) of a float32 or uint8 .npy"""
    if isinstance(data, str):
        with open(data, "rb") as f:
            data = f.read()
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:8]
    size, = struct.unpack("<H", data[8:10])
    head = ast.literal_eval(data[10:10 + size].decode())
    assert not head["fortran_order"]
    values = array.array({"<f4": "f", "|u1": "B", "|i1": "b"}[head["descr"]])
    values.frombytes(data[10 + size:])
    count = 1
    for n in head["shape"]:
        count *= n
    assert len(values) == count, (len(values), head)
    return head["shape"], values


def relative_error(a, b):
    assert len(a) == len(b)
    return (sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b)) ** 0.5


def read_png(data):
    """(width, height, RGB bytes, text chunks) of an 8-bit RGB PNG, every checksum verified"""
    if isinstance(data, str):
        with open(data, "rb") as f:
            data = f.read()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, idat, texts = 8, b"", {}
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        crc, = struct.unpack(">I", data[at + 8 + size:at + 12 + size])
        assert crc == zlib.crc32(kind + body), kind
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 2)
        elif kind == b"IDAT":
            idat += body
        elif kind == b"tEXt":
            key, _, text = body.partition(b"\0")
            texts[key.decode()] = text.decode("latin-1")
        at += 12 + size
    assert kind == b"IEND"
    return width, height, unfilter(zlib.decompress(idat), width, height), texts


def unfilter(raw, width, height):
    stride, out, above = width * 3, bytearray(), bytearray(width * 3)
    for y in range(height):
        kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for x in range(stride) if kind else ():
            a, b, c = (line[x - 3] if x >= 3 else 0), above[x], (above[x - 3] if x >= 3 else 0)
            if kind == 1:
                p = a
            elif kind == 2:
                p = b
            elif kind == 3:
                p = (a + b) // 2
            else:
                p = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            line[x] = (line[x] + p) & 255
        out += line
        above = line
    return bytes(out)


class CliCase(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="imfd-cli-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "wb" if isinstance(text, bytes) else "w") as f:
            f.write(text)
        return self.path(name)

    def ok(self, *args, **kw):
        """Runs and returns stdout; fails with stderr shown."""
        status, out, err = imfd(*args, **kw)
        self.assertEqual(status, 0, err)
        return out

    def refused(self, status, words, *args, **kw):
        """The command ends with `status` and a message that holds each of `words`."""
        got, out, err = imfd(*args, **kw)
        self.assertEqual(got, status, f"{args}: {err}")
        self.assertEqual(out, b"", args)
        for word in [words] if isinstance(words, str) else words:
            self.assertIn(word, err, args)
        self.assertNotIn("Sanitizer", err)

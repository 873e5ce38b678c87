"""What is shipped, and what it may do. The SPDX document is valid and names every library with a licence,
the copyright file names every part of others, imfd serves pictures under a filter that kills at any system
call that docs/syscalls.md does not list, and sources give the same objects in another folder."""
import ctypes
import ctypes.util
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

from deploy import IMFD, ROOT, SLOW, clean_environment, free_port, need, wait_for

PACKAGING = ROOT + "/tools/packaging"


def documented_calls():
    with open(ROOT + "/docs/syscalls.md") as f:
        return re.findall(r"^\| `(\w+)` \|", f.read(), flags=re.M)


def only_calls(names):
    """A function that a child runs before exec: from then on any other system call kills it."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    kill, allow = 0x80000000, 0x7fff0000  # SCMP_ACT_KILL_PROCESS, SCMP_ACT_ALLOW
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(kill)))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0 or library.seccomp_rule_add(context, ctypes.c_uint32(allow), ctypes.c_int(number),
                                                  ctypes.c_uint(0)) != 0:
            raise AssertionError("no rule for " + name)

    def load():
        if library.seccomp_load(context) != 0:
            os._exit(99)
    return load


def seccomp_works():
    try:
        load = only_calls(["exit_group"])
    except OSError:
        return False
    child = os.fork()
    if child == 0:
        load()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


class SystemCalls(unittest.TestCase):
    @unittest.skipUnless(seccomp_works(), "no libseccomp.so.2, or no filters here")
    def test_nothing_else_is_called(self):
        calls, port = documented_calls(), free_port()
        self.assertGreater(len(calls), 50)
        with tempfile.TemporaryDirectory() as folder, open(folder + "/log", "w") as log:
            server = subprocess.Popen(
                [IMFD, "serve", "--device", "cpu", "--listen", "127.0.0.1:%d" % port], env=clean_environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=False, preexec_fn=only_calls(calls))
            try:
                def ask(method, path, value=None, accept="*/*"):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                    connection.request(method, path, json.dumps(value) if value else None,
                                       {"Content-Type": "application/json", "Accept": accept})
                    answer = connection.getresponse()
                    self.assertEqual(answer.status, 200)
                    body = answer.read()
                    connection.close()
                    return body

                def ready():
                    self.assertIsNone(server.poll(), "it was killed: run tools/packaging/syscalls.py anew")
                    try:
                        return ask("GET", "/livez") and ask("GET", "/readyz")
                    except (OSError, AssertionError):
                        return False
                wait_for("it to be ready", ready, 60)
                self.assertEqual(ask("GET", "/v1/images/demo/7/42.png")[:4], b"\x89PNG")
                self.assertEqual(len(json.loads(ask("POST", "/v1/generate", {"class": 3, "n": 5}))["data"]), 5)
                self.assertIn(b"event:", ask("POST", "/v1/generate", {"class": 3, "n": 2}, "text/event-stream"))
                ask("GET", "/metrics")
                server.send_signal(signal.SIGHUP)
                server.terminate()
                self.assertEqual(server.wait(60 * SLOW), 0)
            finally:
                server.kill()
                server.wait()

    @unittest.skipUnless(seccomp_works(), "no libseccomp.so.2, or no filters here")
    def test_the_filter_kills(self):
        """The test above says something: without one call the program does not live."""
        done = subprocess.run([IMFD, "serve", "--device", "fake", "--listen", "127.0.0.1:0"],
                              env=clean_environment(), stderr=subprocess.DEVNULL, close_fds=False,
                              preexec_fn=only_calls([c for c in documented_calls() if c != "epoll_ctl"]), timeout=60)
        self.assertEqual(done.returncode, -signal.SIGSYS)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_the_unit_allows_them(self):
        def members(group, seen):
            text = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True).stdout
            for word in re.findall(r"^    ([@\w-]+)", text, flags=re.M):
                members(word, seen) if word.startswith("@") else seen.add(word)
            return seen

        allowed = set()
        with open(ROOT + "/conf/imfd.service") as f:
            for line in re.findall(r"^SystemCallFilter=(.*)", f.read(), flags=re.M):
                names = set()
                for word in line.lstrip("~").split():
                    names |= members(word, set()) if word.startswith("@") else {word}
                allowed = allowed - names if line.startswith("~") else allowed | names
        self.assertGreater(len(allowed), 100)
        self.assertEqual(set(documented_calls()) - allowed, set())


class Sbom(unittest.TestCase):
    def make(self):
        return subprocess.run([sys.executable, PACKAGING + "/sbom.py", IMFD], capture_output=True, text=True,
                              check=True).stdout

    def test_every_library_has_a_licence(self):
        text = self.make()
        self.assertEqual(text, self.make())
        document = json.loads(text)
        with open(IMFD, "rb") as f:
            self.assertEqual(document["packages"][0]["checksums"][0]["checksumValue"],
                             hashlib.sha256(f.read()).hexdigest())
        linked = {r["relatedSpdxElement"] for r in document["relationships"] if r["relationshipType"] == "DYNAMIC_LINK"}
        parts = {p["SPDXID"]: p for p in document["packages"]}
        self.assertEqual([p["name"] for i, p in parts.items()
                          if i in linked and "NOASSERTION" in (p["licenseDeclared"], p["versionInfo"])
                          and not p["licenseDeclared"].startswith("LicenseRef-NVIDIA")], [])
        named = " ".join(p.get("comment", "") for p in parts.values())
        needed = re.findall(r"NEEDED.*\[(.*?)\.so", subprocess.run(
            ["readelf", "-d", IMFD], capture_output=True, text=True, check=True).stdout)
        self.assertGreater(len(needed), 6)
        for library in needed:
            self.assertIn(library.replace("liblapack.", "libopenblas"), named)
        for name in ("ImageNet class names", "imfd demo model: mit_demo.safetensors"):
            self.assertIn(name, [p["name"] for p in parts.values()])

    def test_valid(self):
        try:
            from spdx_tools.spdx.parser.parse_anything import parse_file
            from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
        except ImportError:
            self.skipTest("spdx-tools is not installed")
        with tempfile.TemporaryDirectory() as folder:
            with open(folder + "/imfd.spdx.json", "w") as f:
                f.write(self.make())
            document = parse_file(f.name)
            self.assertEqual([m.validation_message for m in validate_full_spdx_document(document)], [])
            document.packages[0].spdx_id = "no identity"
            self.assertNotEqual(validate_full_spdx_document(document), [])


class Licences(unittest.TestCase):
    def test_copyright_file(self):
        """Every part of others has a paragraph whose licence is there in full or points to its text."""
        with open(PACKAGING + "/copyright") as f:
            paragraphs = [p for p in re.split(r"\n(?=\S+:)(?<=\n\n)", f.read())]
        files, licences = {}, set()
        for p in paragraphs:
            fields = dict(re.findall(r"^([A-Z][\w-]*):((?:.*(?:\n[ \t].*)*))", p, flags=re.M))
            names = fields.get("License", "").strip().split("\n")[0]
            if "Files" in fields:
                self.assertTrue(fields.get("Copyright", "").strip(), p)
                for pattern in fields["Files"].split():
                    files[pattern] = names
            if "\n" in fields.get("License", "").strip():
                licences.add(names)
        for pattern, names in files.items():
            for name in names.split(" and "):
                self.assertIn(name, licences, pattern)
        # Sources that name a licence, and weights: what came from somewhere else.
        others = ["models/demo/mit_demo.safetensors"]
        for top in ("engine", "server", "web", "kernels", "models"):
            for at, _, names in os.walk(os.path.join(ROOT, top)):
                for name in names:
                    path = os.path.join(at, name)
                    with open(path, errors="replace") as f:
                        if re.search(r"\b(Apache|MIT|BSD|GPL)[ -](2\.0 )?Licen[cs]e|[Cc]opyright \(?[cC12]",
                                     f.read(20000)):
                            others.append(os.path.relpath(path, ROOT))
        self.assertIn("server/api/imagenet_classes.txt", others)
        for path in others:
            self.assertTrue([p for p in files if p != "*" and re.fullmatch(re.escape(p).replace(r"\*", ".*"), path)],
                            path + " is not in tools/packaging/copyright")


class Reproducible(unittest.TestCase):
    # The files that hold text of other files, paths (assert) and versions, and one of kernels. The whole
    # build twice is tools/packaging/check-reproducible.sh; the packing twice is in test_package.py.
    OBJECTS = ["%s/CMakeFiles/%s.dir/%s.c.o" % place for place in (
        ("server/api", "imfd_api", "info"), ("server/api", "imfd_api", "embed_embedded_web"),
        ("server/cli", "imfd_cli", "serve"), ("server/cli", "imfd_cli", "demo"),
        ("server/settings", "imfd_settings", "settings"), ("engine/core", "imf_core", "cuda_loader"),
        ("engine/core", "imf_core", "engine"), ("engine/files", "imf_files", "pickle"))]

    def test_another_folder(self):
        digests = []
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("CMAKE_", "CCACHE_"))}
        environment["CCACHE_DISABLE"] = "1"
        with tempfile.TemporaryDirectory() as folder:
            for place in ("first", "a/much/longer/second"):
                tree, build = (os.path.join(folder, place, n) for n in ("tree", "objects"))
                shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(
                    "build", ".git", "tests", "__pycache__"))
                subprocess.run(["cmake", "-S", tree, "-B", build, "-G", "Ninja", "-DIMFD_TESTS=OFF", "-DIMFD_CUDA=OFF"],
                               check=True, stdout=subprocess.DEVNULL, env=environment)
                subprocess.run(["ninja", "-C", build, *self.OBJECTS], check=True, stdout=subprocess.DEVNULL,
                               env=environment)
                digests.append([hashlib.sha256(open(os.path.join(build, o), "rb").read()).hexdigest()
                                for o in self.OBJECTS])
        for name, one, other in zip(self.OBJECTS, *digests):
            self.assertEqual(one, other, name)


if __name__ == "__main__":
    need("readelf", "ldd", "dpkg", "ninja", "cmake")
    unittest.main(verbosity=2)

"""tools/packaging/bundle.sh: the archive unpacked in a chroot that is laid out as another distribution's, libraries in
/usr/lib64, with nothing but glibc and GCC's runtime, whose interfaces end at glibc 2.34 and GCC 11: what came later
has another name there (as root; else skipped)."""
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import unittest

from deploy import IMFD, ROOT, SKIP, free_port, need, wait_for

BUILD = os.environ.get("IMFD_BUILD", os.path.dirname(os.path.dirname(os.path.abspath(IMFD))))
HOST = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2")
LATER = re.compile(rb"(GLIBC|GLIBCXX)_(2\.3[5-9]|2\.[4-9]\d|3\.4\.[3-9]\d)\0|GLIBC_(ABI_DT_RELR)\0")


def run(*command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode != 0:
        raise AssertionError("%s: exit %d\n%s" % (" ".join(command), done.returncode, done.stdout[-4000:]))
    return done.stdout


def library(name):
    """Where this machine's loader finds it."""
    listed = run("ldconfig", "-p")
    return os.path.realpath(re.search(r"%s \(libc6,x86-64.* => (\S+)" % re.escape(name), listed).group(1))


def without_later(name):
    """The library with every newer interface under a name that nobody asks for."""
    with open(library(name), "rb") as f:
        return LATER.sub(lambda found: b"OLDER" + found.group(0)[5:], f.read())


class Bundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="imfd-bundle-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        said = cls.bundle()
        with tarfile.open(said.split(":")[0]) as tar:
            cls.files = {m.name: m for m in tar.getmembers()}
            tar.extractall(cls.folder + "/opt")
        cls.root = cls.folder + "/root"
        for path in ("usr/lib64", "proc", "dev", "tmp", "etc", "home"):
            os.makedirs(os.path.join(cls.root, path))
        os.symlink("usr/lib64", cls.root + "/lib64")
        for name in HOST:
            cls.lay(name)
        with open(cls.root + "/etc/ld.so.conf", "w") as f:
            f.write("/usr/lib64\n")
        os.rename(cls.folder + "/opt/" + os.listdir(cls.folder + "/opt")[0], cls.root + "/home/imfd")
        run("ldconfig", "-r", cls.root)

    @classmethod
    def bundle(cls, **more):
        return run("sh", ROOT + "/tools/packaging/bundle.sh", cls.folder,
                   env=dict(os.environ, BUNDLE_BUILD=BUILD, BUNDLE_PRESET="0", **more)).splitlines()[-1]

    @classmethod
    def lay(cls, name):
        with open(os.path.join(cls.root, "usr/lib64", name), "wb") as f:
            f.write(without_later(name))
        os.chmod(f.name, 0o755)

    def command(self, *arguments):
        return ["unshare", "--mount", "sh", "-c", 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"', self.root,
                "/home/imfd/bin/imfd", *arguments]

    def imfd(self, *arguments):
        return run(*self.command(*arguments), env={})

    def test_draws(self):
        self.assertRegex(self.imfd("--version"), r"^imfd \d")
        self.imfd("sample", "--demo", "--classes", "0", "--seeds", "1", "-o", "/tmp/one.png")
        with open(self.root + "/tmp/one.png", "rb") as f:
            self.assertEqual(f.read(8), b"\x89PNG\r\n\x1a\n")

    def test_says_what_the_host_lacks(self):
        self.assertIn("no NVIDIA driver", subprocess.run(
            self.command("bench", "--demo", "--device", "cuda"), env={}, capture_output=True, text=True).stderr)

    def test_serves(self):
        port = free_port()
        server = subprocess.Popen(self.command("serve", "--listen", "127.0.0.1:%d" % port), env={},
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(server.stderr.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.send_signal, signal.SIGTERM)

        def ready():
            if server.poll() is not None:
                raise AssertionError(server.stderr.read().decode())
            try:
                return self.get(port, "/readyz")[0] == 200
            except OSError:
                return False
        wait_for("the server", ready)
        status, body = self.get(port, "/v1/models")
        self.assertEqual(status, 200)
        self.assertTrue(json.loads(body)["data"])

    @staticmethod
    def get(port, path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def test_everything_but_the_hosts_comes_along(self):
        names = {os.path.basename(name) for name in self.files}
        self.assertFalse([name for name in names if name in HOST or "cublas" in name])
        self.assertIn("gpu-first-run.sh", names)
        self.assertIn("mit_demo.safetensors", names)
        self.assertIn("sbom.json", names)
        if os.path.exists(BUILD + "/engine/cuda/libimf_cuda.so"):
            self.assertIn("libimf_cuda.so", names)
        program = self.root + "/home/imfd/bin/imfd"
        self.assertIn("rpath: [$ORIGIN/../lib/imfd]", run("readelf", "-d", program))

    def test_a_newer_file_does_not_run_here(self):
        """The chroot is as old as is said: this machine's own libstdc++ does not load."""
        carried = self.root + "/home/imfd/lib/imfd/libstdc++.so.6"
        shutil.copy(library("libstdc++.so.6"), carried)
        self.addCleanup(os.remove, carried)
        with self.assertRaisesRegex(AssertionError, r"version `GLIBC_2\.3[56]' not found"):
            self.imfd("--version")

    def test_a_newer_file_is_refused(self):
        with open(self.folder + "/newer.c", "w") as f:
            f.write("#include <stdlib.h>\nunsigned newer(void) { return arc4random(); }\n")
        os.makedirs(self.folder + "/install")
        stub = self.folder + "/install/cmake"  # installs one library more
        with open(stub, "w") as f:
            f.write('#!/bin/sh\n%s "$@" || exit\n[ "$1" = --install ] || exit 0\n'
                    'gcc -shared -fPIC %s/newer.c -o "$4/lib/imfd/libnewer.so"\n' % (shutil.which("cmake"), self.folder))
        os.chmod(stub, 0o755)
        with self.assertRaisesRegex(AssertionError, "libnewer.so needs GLIBC 2.36, newer than 2.34"):
            self.bundle(PATH=self.folder + "/install:" + os.environ["PATH"])


if __name__ == "__main__":
    need("cmake", "readelf", "xz", "ldd", "ldconfig", "gcc", "chroot", "unshare")
    if os.getuid() != 0 or subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        print("skipped: a chroot needs root and a mount name space")
        sys.exit(SKIP)
    unittest.main(verbosity=2)

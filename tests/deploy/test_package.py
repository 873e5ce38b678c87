"""The packages. `layout`: what `cmake --install` lays out, a program built against libimf through
pkg-config, hardening of the binary, the source tarball. `deb`: the .deb installs, serves and is
removed cleanly in a Debian 12 made by debootstrap (as root, with a network; else skipped)."""
import http.client
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

from deploy import IMFD, ROOT, SKIP, free_port, need

BUILD = os.environ.get("IMFD_BUILD", os.path.dirname(os.path.dirname(os.path.abspath(IMFD))))
BASE = os.path.join(ROOT, "build", "deploy", "base.tar")


def run(*command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode != 0:
        raise AssertionError("%s: exit %d\n%s" % (" ".join(command), done.returncode, done.stdout[-4000:]))
    return done.stdout


class Layout(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="imfd-install-")
        run("cmake", "--install", BUILD, "--prefix", cls.folder, "--component", "runtime")
        run("cmake", "--install", BUILD, "--prefix", cls.folder, "--component", "dev")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def find(self, name):
        return [os.path.join(at, name) for at, _, files in os.walk(self.folder) if name in files]

    def test_files(self):
        for name in ("imfd", "libimf.a", "imf.h", "libimf.pc", "imfd.1", "mit_demo.safetensors",
                     "taesd_demo.safetensors", "operations.md", "imfd.service"):
            self.assertTrue(self.find(name), name)

    def test_a_program_of_somebody_else(self):
        pc = self.find("libimf.pc")[0]
        with open(pc) as f:  # installed with --prefix: the file names the configured one
            text = re.sub(r"^prefix=.*", "prefix=" + self.folder, f.read(), flags=re.M)
        text = re.sub(r"^libdir=.*", "libdir=" + os.path.dirname(os.path.dirname(pc)), text, flags=re.M)
        text = re.sub(r"^includedir=.*", "includedir=" + os.path.dirname(self.find("imf.h")[0]), text,
                      flags=re.M)
        with open(pc, "w") as f:
            f.write(text)
        with open(self.folder + "/other.c", "w") as f:
            f.write('#include <imf.h>\n#include <stdio.h>\n'
                    'int main(void) { struct imf_engine_params p; struct imf_engine *e; struct imf_error err;\n'
                    'imf_engine_params_init(&p); p.device = "cpu";\n'
                    'if (imf_engine_create(&e, &p, &err) != IMF_OK) { puts(err.message); return 1; }\n'
                    'imf_engine_destroy(e); puts(imf_version()); return 0; }\n')
        flags = run("pkg-config", "--cflags", "--libs", "libimf",
                    env=dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(pc))).split()
        run("gcc", self.folder + "/other.c", "-o", self.folder + "/other", *flags)
        self.assertRegex(run(self.folder + "/other"), r"^\d+\.\d+\.\d+\n$")

    def test_demo_model_is_found_after_moving(self):
        out = self.folder + "/one.png"
        run(self.folder + "/bin/imfd", "sample", "--demo", "--classes", "0", "--seeds", "1", "-o", out)
        with open(out, "rb") as f:
            self.assertEqual(f.read(8), b"\x89PNG\r\n\x1a\n")

    def test_hardening(self):
        headers = run("readelf", "-W", "-h", "-l", "-d", IMFD)
        self.assertIn("DYN (Position-Independent Executable", headers)
        self.assertIn("GNU_RELRO", headers)
        self.assertRegex(headers, r"FLAGS_1\).*NOW")
        self.assertRegex(headers, r"GNU_STACK .* RW ")
        symbols = run("readelf", "-W", "--dyn-syms", IMFD)
        self.assertIn("__stack_chk_fail", symbols)
        self.assertRegex(symbols, r"__(memcpy|snprintf|fprintf|memset)_chk")
        if shutil.which("hardening-check"):
            text = subprocess.run(["hardening-check", IMFD], capture_output=True, text=True).stdout
            for line in ("Position Independent Executable", "Stack protected", "Fortify Source functions",
                         "Read-only relocations", "Immediate binding"):
                self.assertRegex(text, line + ": yes")

    def test_no_folder_of_this_machine(self):
        with open(IMFD, "rb") as f:
            self.assertNotIn((ROOT + "/").encode(), f.read())

    def test_source_tarball(self):
        with tempfile.TemporaryDirectory() as folder:
            run("cpack", "--config", BUILD + "/CPackSourceConfig.cmake", "-B", folder)
            name = [n for n in os.listdir(folder) if n.endswith(".tar.gz")][0]
            with tarfile.open(os.path.join(folder, name)) as tar:
                names = tar.getnames()
                tar.extractall(folder)
            self.assertFalse([n for n in names if "/build/" in n or "/.git/" in n])
            tree = os.path.join(folder, name[:-len(".tar.gz")])
            run("cmake", "-S", tree, "-B", folder + "/b", "-G", "Ninja", "-DIMFD_TESTS=OFF")
            # One object of each library: the whole build is the package's.
            run("ninja", "-C", folder + "/b", "engine/CMakeFiles/imf_engine.dir/status.c.o",
                "server/CMakeFiles/imfd_server.dir/notify.c.o")

    def test_manual_page(self):
        if shutil.which("mandoc") is None:
            self.skipTest("mandoc is not installed")
        done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", self.find("imfd.1")[0]],
                              capture_output=True, text=True)
        self.assertEqual([line for line in done.stdout.splitlines()
                          if "ERROR" in line or "UNSUPP" in line], [])

    def test_completion(self):
        script = ("source %s; imfd() { %s \"$@\"; }; COMP_WORDS=(imfd %%s); COMP_CWORD=%%d; _imfd; "
                  "echo ${COMPREPLY[@]}" % (ROOT + "/tools/packaging/imfd.bash", IMFD))
        self.assertIn("serve", run("bash", "-c", script % ("se", 1)))
        self.assertIn("--max-queue", run("bash", "-c", script % ("serve --max", 2)))
        self.assertEqual(run("bash", "-c", script % ("serve --device cp", 3)).strip(), "cpu")


class Deb(unittest.TestCase):
    def test_install_serve_remove(self):
        folder = tempfile.mkdtemp(prefix="imfd-chroot-", dir=os.path.dirname(BASE))
        chroot = folder + "/root"
        try:
            os.mkdir(chroot)
            run("tar", "-C", chroot, "-xf", BASE)
            shutil.copy("/etc/resolv.conf", chroot + "/etc/resolv.conf")
            package_build = self.package_build(folder)
            run("cpack", "--config", package_build + "/CPackConfig.cmake", "-G", "DEB", "-B",
                folder + "/out", cwd=package_build)
            deb = [n for n in os.listdir(folder + "/out") if n.endswith(".deb")][0]
            shutil.copy(os.path.join(folder, "out", deb), chroot + "/" + deb)
            inside = ["chroot", chroot, "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
            run(*inside, "apt-get", "update", "-qq")
            run(*inside, "apt-get", "install", "-qq", "-y", "--no-install-recommends", "/" + deb)
            self.assertIn("imfd:", run(*inside, "getent", "passwd", "imfd"))
            self.assertIn("/etc/imfd/imfd.json", run(*inside, "dpkg-query", "-W", "-f=${Conffiles}", "imfd"))
            self.serve(inside)
            with open(chroot + "/etc/imfd/imfd.json", "a") as f:
                f.write("// changed here\n")
            run(*inside, "dpkg", "-r", "imfd")
            self.assertTrue(os.path.exists(chroot + "/etc/imfd/imfd.json"), "settings outlive a removal")
            self.assertFalse(os.path.exists(chroot + "/usr/bin/imfd"))
            run(*inside, "dpkg", "-P", "imfd")
            left = run("find", chroot + "/etc", chroot + "/usr", chroot + "/lib", chroot + "/var",
                       "-name", "*imfd*", "-not", "-path", "*/var/cache/*", "-not", "-path", "*/var/log/*")
            self.assertEqual(left, "")
            self.assertNotEqual(subprocess.run([*inside, "getent", "passwd", "imfd"]).returncode, 0)
        finally:
            shutil.rmtree(folder)

    def package_build(self, folder):
        """The program of this build under the prefix of the package: only what the prefix is compiled
        into (two files) is built again, in a build folder kept beside the base."""
        build = os.path.join(os.path.dirname(BASE), "package")
        run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            "-DIMFD_TESTS=OFF", "-DIMFD_CUDA=OFF", "-DCMAKE_INSTALL_PREFIX=/usr")
        run("nice", "ninja", "-C", build, "-j2")
        return build

    def serve(self, inside):
        port = free_port()
        server = subprocess.Popen(
            [*inside, "setpriv", "--reuid=imfd", "--regid=imfd", "--clear-groups", "imfd", "serve",
             "--config", "/etc/imfd/imfd.json", "--listen", "127.0.0.1:%d" % port],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            deadline, status = time.monotonic() + 60, None
            while status != 200 and time.monotonic() < deadline:
                time.sleep(0.2)
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                    connection.request("GET", "/v1/images/demo/207/42.png")
                    answer = connection.getresponse()
                    status, body = answer.status, answer.read()
                except OSError:
                    self.assertIsNone(server.poll(), "imfd ended")
            self.assertEqual((status, body[:8]), (200, b"\x89PNG\r\n\x1a\n"))
            server.terminate()
            self.assertEqual(server.wait(30), 0, server.stdout.read())
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


if __name__ == "__main__":
    which = sys.argv[1]
    if which == "deb":
        need("cpack", "dpkg-shlibdeps", "debootstrap", "chroot")
        if os.getuid() != 0:
            print("skipped: a chroot needs root")
            sys.exit(SKIP)
        if not os.path.exists(BASE):
            print("skipped: no Debian 12 in %s; tools/packaging/make-base.sh makes it" % BASE)
            sys.exit(SKIP)
    else:
        need("cpack", "pkg-config", "readelf", "gcc")
    unittest.main(argv=[sys.argv[0], "Deb" if which == "deb" else "Layout"], verbosity=2)

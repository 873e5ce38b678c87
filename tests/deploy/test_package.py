"""The packages. `layout`: what `cmake --install` lays out, a program built against libimf through
pkg-config, hardening of the binary, the source tarball. `deb`: the .deb installs, is upgraded, serves
and is removed cleanly in a Debian 12 made by debootstrap (as root, with a network; else skipped)."""
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

from deploy import IMFD, ROOT, SKIP, SLOW, free_port, need

BUILD = os.environ.get("IMFD_BUILD", os.path.dirname(os.path.dirname(os.path.abspath(IMFD))))
DEPLOY = os.path.join(ROOT, "build", "deploy")
BASE = os.path.join(DEPLOY, "base.tar")


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

    def elf_files(self):
        """The program and the modules of this build: CUDA's and MPI's where they are built."""
        found = [IMFD] + [os.path.join(BUILD, n) for n in ("engine/cuda/libimf_cuda.so", "server/libimfd_mpi.so")]
        return [n for n in found if os.path.exists(n)]

    def test_hardening(self):
        for path in self.elf_files():
            with self.subTest(os.path.basename(path)):
                self.check_hardening(path, path == IMFD)

    def check_hardening(self, path, is_program):
        headers = run("readelf", "-W", "-h", "-l", "-d", path)
        self.assertIn("DYN (Position-Independent Executable" if is_program else "DYN (Shared object", headers)
        self.assertIn("GNU_RELRO", headers)
        self.assertRegex(headers, r"(FLAGS_1\).*NOW|BIND_NOW)")
        self.assertRegex(headers, r"GNU_STACK .* RW ")
        self.assertNotIn("TEXTREL", headers)
        lines = ["Read-only relocations", "Immediate binding"]
        # MPI's module has a few lines that copy nothing: there is nothing to protect.
        if "mpi" not in path:
            symbols = run("readelf", "-W", "--dyn-syms", path)
            self.assertIn("__stack_chk_fail", symbols)
            self.assertRegex(symbols, r"__(memcpy|snprintf|fprintf|memset)_chk")
            lines += ["Stack protected", "Fortify Source functions"]
        if is_program:
            lines.append("Position Independent Executable")
        if shutil.which("hardening-check"):
            text = subprocess.run(["hardening-check", path], capture_output=True, text=True).stdout
            for line in lines:
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
            run("ninja", "-C", folder + "/b", "engine/common/CMakeFiles/imf_common.dir/status.c.o",
                "server/cli/CMakeFiles/imfd_cli.dir/notify.c.o")

    def test_manual_page(self):
        if shutil.which("mandoc") is None:
            self.skipTest("mandoc is not installed")
        done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", self.find("imfd.1")[0]],
                              capture_output=True, text=True)
        self.assertEqual([line for line in done.stdout.splitlines()
                          if "ERROR" in line or "UNSUPP" in line], [])

    def test_manual_page_is_of_this_program(self):
        run(sys.executable, ROOT + "/tools/packaging/man.py", IMFD, "--check")
        with open(self.find("imfd.1")[0]) as f:
            page = f.read().replace("\\-", "-")
        keys = re.findall(r'^    "(\w+)":', run(IMFD, "serve", "--print-default-config"), flags=re.M)
        self.assertGreater(len(keys), 25)
        for key in keys:
            self.assertIn(".B --" + key.replace("_", "-"), page)
        for command in self.commands():
            self.assertIn(".SS imfd " + command, page)
            self.assertIn(".B %s\n" % command, page)

    def commands(self):
        return re.findall(r"^  ([a-z]+) +\S", run(IMFD, "--help"), flags=re.M)

    def test_bill_of_materials(self):
        with open(self.find("sbom.json")[0]) as f:
            document = json.load(f)
        with open(self.folder + "/bin/imfd", "rb") as f:
            self.assertEqual(document["packages"][0]["checksums"][0]["checksumValue"],
                             hashlib.sha256(f.read()).hexdigest())

    def test_completion(self):
        script = ("source %s; imfd() { %s \"$@\"; }; COMP_WORDS=(imfd %%s); COMP_CWORD=%%d; _imfd; "
                  "echo ${COMPREPLY[@]}" % (ROOT + "/tools/packaging/imfd.bash", IMFD))
        self.assertIn("serve", run("bash", "-c", script % ("se", 1)))
        self.assertIn("--max-queue", run("bash", "-c", script % ("serve --max", 2)))
        self.assertEqual(run("bash", "-c", script % ("serve --device cp", 3)).strip(), "cpu")
        for command in self.commands():
            self.assertIn(command, run("bash", "-c", script % (command[:2], 1)).split())
            offered = set(run("bash", "-c", script % (command + " --", 2)).split())
            flags = set(re.findall(r"--[a-z][a-z0-9-]*", "\n".join(
                line.strip().split("  ")[0] for line in run(IMFD, command, "--help").splitlines()
                if line.startswith("  --"))))
            self.assertGreater(len(flags), 2)
            self.assertEqual(flags - offered, set(), command)


class Chroot:
    """A Debian 12 of its own, unpacked from the base that debootstrap made, with /proc while something
    runs in it. The mount is of a name space that ends with the command: nothing has to be undone.
    Packages that apt fetched are kept beside the base, so that the next run needs no network."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="chroot.", dir=DEPLOY)
        self.root = self.folder + "/root"
        os.mkdir(self.root)
        run("tar", "-C", self.root, "--numeric-owner", "-xf", BASE)
        os.chmod(self.root, 0o755)
        shutil.copy("/etc/resolv.conf", self.root + "/etc/resolv.conf")
        self.write("etc/dpkg/dpkg.cfg.d/test", "force-unsafe-io\n")  # it does not outlive the test
        self.write("etc/apt/apt.conf.d/zz-test",
                   'APT::Keep-Downloaded-Packages "true";\nAcquire::Languages "none";\n')
        self.kept = DEPLOY + "/apt.tar"
        if os.path.exists(self.kept):
            run("tar", "-C", self.root, "-xf", self.kept)

    @classmethod
    def shared(cls):
        """One for all tests: unpacking takes longer than they do."""
        if not cls.one:
            cls.one = cls()
            unittest.addModuleCleanup(shutil.rmtree, cls.one.folder)
        return cls.one

    one = None

    def path(self, name):
        return os.path.join(self.root, name.lstrip("/"))

    def write(self, name, text, mode="w"):
        with open(self.path(name), mode) as f:
            f.write(text)

    def read(self, name):
        with open(self.path(name)) as f:
            return f.read()

    def command(self, *command, **environment):
        proxies = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
        variables = dict(proxies, PATH="/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL="C.UTF-8",
                         DEBIAN_FRONTEND="noninteractive", **environment)
        return ["unshare", "--mount", "sh", "-c",
                'mount --rbind /proc "$0/proc" && exec chroot "$0" env -i "$@"', self.root,
                *["%s=%s" % v for v in variables.items()], *command]

    def run(self, *command):
        return run(*self.command(*command), stdin=subprocess.DEVNULL)

    def install(self, deb):
        """apt-get install with what was kept, or, when that is not enough (the first time; another
        list of dependencies), with the network."""
        command = ("apt-get", "install", "-qq", "-y", "--no-install-recommends", deb)
        if os.path.exists(self.kept):
            try:
                return self.run(*command)
            except AssertionError as e:
                print("what was kept is not enough:", str(e)[-500:])
        self.run("apt-get", "update", "-qq")
        output = self.run(*command)
        part = tempfile.NamedTemporaryFile(dir=DEPLOY, delete=False).name
        run("tar", "-C", self.root, "--numeric-owner", "-cf", part, "var/lib/apt/lists", "var/cache/apt/archives")
        os.rename(part, self.kept)
        return output


class Deb(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="imfd-deb-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        run("sh", "-c", "umask 022; exec cpack --config %s/CPackConfig.cmake -G DEB -B %s/out" % (BUILD, cls.folder))
        name = [n for n in os.listdir(cls.folder + "/out") if n.endswith(".deb")][0]
        cls.deb = os.path.join(cls.folder, "out", name)
        cls.chroot = Chroot.shared()
        shutil.copy(cls.deb, cls.chroot.path("new.deb"))
        cls.make_older()

    @classmethod
    def make_older(cls):
        """The same program as version 0.0.1, with other settings as it came."""
        tree = cls.folder + "/older"
        run("dpkg-deb", "-R", cls.deb, tree)
        for name, pattern, text in (("DEBIAN/control", r"^Version: .*", "Version: 0.0.1"),
                                    ("etc/imfd/imfd.json", r"\A", "// Of version 0.0.1.\n"),
                                    ("etc/default/imfd", r"\A", "# Of version 0.0.1.\n")):
            with open(os.path.join(tree, name)) as f:
                changed = re.sub(pattern, text, f.read(), flags=re.M)
            with open(os.path.join(tree, name), "w") as f:
                f.write(changed)
        run("dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, cls.chroot.path("old.deb"))

    def test_same_bytes_twice(self):
        """At another time and place. Another umask changes no more than the modes in the outer archive,
        which cpack writes and nobody reads."""
        time.sleep(1.1)
        listings, digests = [], []
        for folder, umask in (("again", "022"), ("strict", "077")):
            run("sh", "-c", "umask %s; TZ=Asia/Tokyo exec cpack --config %s/CPackConfig.cmake -G DEB -B %s/%s" %
                (umask, BUILD, self.folder, folder))
        for folder in ("out", "again", "strict"):
            path = self.deb.replace("/out/", "/%s/" % folder)
            with open(path, "rb") as f:
                digests.append(hashlib.sha256(f.read()).hexdigest())
            listings.append(run("dpkg-deb", "-c", path))
        self.assertEqual(digests[0], digests[1])
        self.assertEqual(listings[0], listings[2])
        text = run("dpkg-deb", "-c", self.deb)
        self.assertIn("./usr/share/doc/imfd/sbom.json", text)
        self.assertIn("./usr/share/doc/imfd/copyright", text)

    def state(self):
        return self.chroot.run("dpkg-query", "-W", "-f=${Version} ${db:Status-Abbrev}", "imfd").strip()

    def test_life(self):
        """Installed, upgraded, served, removed, purged."""
        chroot = self.chroot
        before = self.files()
        chroot.install("/old.deb")
        self.assertEqual(self.state(), "0.0.1 ii")
        self.assertIn("/usr/sbin/nologin", chroot.run("getent", "passwd", "imfd"))
        conffiles = chroot.run("dpkg-query", "-W", "-f=${Conffiles}", "imfd").split()[::2]
        self.assertEqual(sorted(conffiles), ["/etc/default/imfd", "/etc/imfd/imfd.json"])
        self.assertTrue(os.path.exists(chroot.path("lib/systemd/system/imfd.service")))
        self.assertTrue(os.path.lexists(chroot.path(self.ENABLED)), "not enabled")
        self.serve()

        # A file that both the owner and the new version changed stays the owner's; one that only the
        # version changed is renewed.
        settings = chroot.read("etc/imfd/imfd.json")
        changed = settings.replace('"max_n": 64', '"max_n": 3')
        self.assertNotEqual(changed, settings)
        chroot.write("etc/imfd/imfd.json", changed)
        chroot.run("dpkg", "--force-confold", "-i", "/new.deb")
        self.assertRegex(self.state(), r"^(?!0\.0\.1)\S+ ii$")
        self.assertEqual(chroot.run("dpkg", "--verify", "imfd").split(), ["??5??????", "c", "/etc/imfd/imfd.json"])
        self.assertEqual(chroot.read("etc/imfd/imfd.json"), changed)
        self.assertNotIn("Of version", chroot.read("etc/default/imfd"))
        self.serve(most=3)

        chroot.run("dpkg", "-r", "imfd")
        self.assertEqual(self.state().split()[1], "rc")
        self.assertEqual(chroot.read("etc/imfd/imfd.json"), changed)
        self.assertFalse(os.path.exists(chroot.path("usr/bin/imfd")))
        # Again, without a question: dpkg remembers that the owner has decided.
        chroot.run("dpkg", "-i", "/new.deb")
        self.assertEqual(chroot.read("etc/imfd/imfd.json"), changed)

        # A checkpoint that somebody put there is not ours to delete; nothing else is left.
        chroot.write("var/lib/imfd/models/theirs.pth", "weights")
        chroot.run("dpkg", "-P", "imfd")
        self.assertEqual(self.files() - before, {"var/lib/imfd/models/theirs.pth", "var/lib/imfd/models",
                                                 "var/lib/imfd"})
        self.assertNotIn("imfd", chroot.read("etc/passwd") + chroot.read("etc/group"))

    ENABLED = "etc/systemd/system/multi-user.target.wants/imfd.service"

    def files(self):
        """What a package may leave behind, of any name with imfd in its path."""
        return {os.path.relpath(os.path.join(at, name), self.chroot.root)
                for top in ("etc", "usr", "lib", "var", "run")
                for at, folders, files in os.walk(self.chroot.path(top)) for name in folders + files
                if "imfd" in os.path.relpath(os.path.join(at, name), self.chroot.root)}

    def serve(self, most=64):
        """What the unit starts, as the user it names: one picture by GET, and no more than max_n by POST."""
        unit = self.chroot.read("lib/systemd/system/imfd.service")
        user = re.search(r"^User=(.*)", unit, flags=re.M)[1]
        start = re.search(r"^ExecStart=(.*)", unit, flags=re.M)[1].split()
        environment = dict(re.findall(r"^(\w+)=(.*)", self.chroot.read("etc/default/imfd"), flags=re.M))
        port = free_port()
        server = subprocess.Popen(
            self.chroot.command("setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups", "--no-new-privs",
                                *start, "--listen", "127.0.0.1:%d" % port, **environment),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            deadline, status = time.monotonic() + 60 * SLOW, None
            while status != 200 and time.monotonic() < deadline:
                time.sleep(0.1)
                try:
                    status, body = self.ask(port, "GET", "/v1/images/demo/7/42.png")
                except OSError:
                    if server.poll() is not None:
                        self.fail("imfd ended: " + server.stdout.read())
            self.assertEqual((status, body[:8]), (200, b"\x89PNG\r\n\x1a\n"))
            uid = os.stat("/proc/%d" % server.pid).st_uid
            self.assertEqual(str(uid), self.chroot.run("id", "-u", user).strip())
            for n, expected in ((most, 200), (most + 1, 400)):
                status, body = self.ask(port, "POST", "/v1/generate", {"class": 1, "n": n})
                self.assertEqual(status, expected, body[:300])
            server.terminate()
            self.assertEqual(server.wait(40 * SLOW), 0, server.stdout.read())
        finally:
            server.kill()
            server.wait()
            server.stdout.close()

    def ask(self, port, method, path, value=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request(method, path, body=json.dumps(value) if value else None,
                               headers={"Content-Type": "application/json"} if value else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Daemons(unittest.TestCase):
    """tools/install-deps.sh with an apt-get that writes down whether servers may start."""

    def setUp(self):
        self.chroot = Chroot.shared()
        for name in ("tools", "stub"):
            os.makedirs(self.chroot.path(name), exist_ok=True)
        shutil.copy(ROOT + "/tools/install-deps.sh", self.chroot.path("tools/install-deps.sh"))
        self.chroot.write("stub/apt-get", '#!/bin/sh\ncase "$*" in *install*) cp /usr/sbin/policy-rc.d /seen;'
                                          ' exit ${FAIL:-0};; esac\n')
        os.chmod(self.chroot.path("stub/apt-get"), 0o755)
        self.policy = "usr/sbin/policy-rc.d"
        self.addCleanup(lambda: subprocess.run(["rm", "-f", self.chroot.path(self.policy)]))

    def install_deps(self, **environment):
        environment = " ".join("%s=%s" % v for v in environment.items())
        return subprocess.run(self.chroot.command(
            "sh", "-c", "PATH=/stub:$PATH %s sh /tools/install-deps.sh test" % environment),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT).returncode

    def test_none_starts(self):
        self.assertEqual(self.install_deps(), 0)
        self.assertIn("exit 101", self.chroot.read("seen"))
        self.assertFalse(os.path.lexists(self.chroot.path(self.policy)))

    def test_a_failure_leaves_nothing(self):
        self.assertNotEqual(self.install_deps(FAIL="100"), 0)
        self.assertFalse(os.path.lexists(self.chroot.path(self.policy)))

    def test_an_owners_policy_stays(self):
        self.chroot.write(self.policy, "#!/bin/sh\nexit 0\n")
        self.assertEqual(self.install_deps(), 0)
        self.assertEqual(self.chroot.read("seen"), "#!/bin/sh\nexit 0\n")
        self.assertEqual(self.chroot.read(self.policy), "#!/bin/sh\nexit 0\n")


def make_base():
    """Debian 12 in BASE, or the reason why there is none."""
    if os.getuid() != 0:
        return "a chroot needs root"
    if subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        return "no mount name space may be made here"
    done = subprocess.run(["sh", ROOT + "/tools/packaging/make-base.sh"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        return "tools/packaging/make-base.sh failed (no network?):\n" + done.stdout[-1000:]
    return None


if __name__ == "__main__":
    which = sys.argv[1]
    if which == "deb":
        need("cpack", "dpkg-shlibdeps", "debootstrap", "chroot", "unshare")
        reason = make_base()
        if reason:
            print("skipped: " + reason)
            sys.exit(SKIP)
    else:
        need("cpack", "pkg-config", "readelf", "gcc")
    names = {"deb": ["Deb", "Daemons"], "layout": ["Layout"]}[which]
    unittest.main(argv=[sys.argv[0], *names], verbosity=2)

"""The Dockerfile. `image`: its cpu target with this build's program in the place of the stage "build"
(tools/image/image.sh builds all of it), measured, started by buildah in a chroot and by podman as a
real container: read-only, without capabilities, as process 1. As root, with a Debian 12 that
tools/image/image.sh base makes the first time (with a network); else skipped. `pid1`: process 1 of a PID namespace, without any image."""
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from deploy import IMFD, ROOT, SKIP, clean_environment, free_port, need, wait_for

BUILD = os.environ.get("IMFD_BUILD", os.path.dirname(os.path.dirname(os.path.abspath(IMFD))))
TOOL = os.path.join(ROOT, "tools", "image", "image.sh")
IMAGE = "localhost/imfd:test"
PNG = b"\x89PNG\r\n\x1a\n"
# What a hardened deployment asks for; the last line is for machines where root itself has limits.
HARDENED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL",
            "--security-opt=no-new-privileges", "--network=host",
            "--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]


def tool(*arguments, check=True):
    done = subprocess.run([TOOL, *arguments], env=dict(os.environ, IMFD_IMAGE=IMAGE), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check and done.returncode != 0:
        raise AssertionError("%s: exit %d\n%s" % (arguments, done.returncode, done.stderr[-3000:]))
    return done.stdout.strip() if check else done


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def answers(port, prefix=""):
    try:
        return get(port, prefix + "/readyz")[0] == 200
    except OSError:
        return False


def status_of(pid):
    with open("/proc/%d/status" % pid) as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def children(pid):
    return [int(c) for c in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True,
                                           text=True).stdout.split()]


class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["cmake", "--install", BUILD, "--prefix", "/usr", "--component", "runtime",
                            "--strip"], check=True, capture_output=True,
                           env=dict(os.environ, DESTDIR=folder + "/out"))
            # This build may have a CUDA engine; the stage that it stands for has none.
            shutil.rmtree(folder + "/out/usr/lib/imfd", ignore_errors=True)
            os.makedirs(folder + "/out/usr/lib/imfd", exist_ok=True)
            shutil.copy(ROOT + "/tools/image/healthcheck", folder + "/out/usr/lib/imfd/")
            before = tool("podman", "images", "-q", IMAGE)
            tool("build", "--build-context", "build=" + folder)
            if before and before != tool("podman", "images", "-q", IMAGE):
                tool("podman", "rmi", "--force", before, check=False)

    def start(self, *arguments, prefix=""):
        """A container in the background; the port that it serves on."""
        port = free_port()
        name = "imfd-test-%d" % port
        done = tool("podman", "run", "--detach", "--name", name, *HARDENED,
                    "--env", "IMFD_LISTEN=127.0.0.1:%d" % port, *arguments, IMAGE, check=False)
        self.addCleanup(tool, "podman", "rm", "--force", name, check=False)
        if done.returncode != 0:
            self.skipTest("podman run does not work here: " + done.stderr.strip()[-200:])
        wait_for("the container", lambda: answers(port, prefix), 60)
        return name, port

    def inside(self, name, script):
        return tool("podman", "exec", name, "bash", "-c", script)

    def test_size(self):
        text = tool("size")
        print(text)
        self.assertLess(int(text.split()[-2]), 150)

    def test_what_it_says(self):
        config = json.loads(tool("podman", "image", "inspect", IMAGE))[0]
        settings, labels = config["Config"], config["Labels"]
        version = subprocess.run([IMFD, "--version"], capture_output=True, text=True).stdout.split()[1]
        self.assertEqual(labels["org.opencontainers.image.version"], version)
        for name in ("title", "description", "revision", "source", "licenses"):
            self.assertIn("org.opencontainers.image." + name, labels)
        self.assertEqual(settings["User"], "10001:10001")
        self.assertEqual((settings["Entrypoint"], settings["Cmd"]), (["imfd"], ["serve"]))
        self.assertEqual(list(settings["Volumes"]), ["/models"])
        self.assertEqual(settings["StopSignal"], "SIGTERM")
        self.assertEqual(config["Healthcheck"]["Test"], ["CMD", "/usr/lib/imfd/healthcheck"])

    def test_chroot(self):
        """buildah's chroot, which works where nothing else does."""
        port = free_port()
        server = subprocess.Popen([TOOL, "serve", "--env", "IMFD_LISTEN=127.0.0.1:%d" % port],
                                  env=dict(os.environ, IMFD_IMAGE=IMAGE), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            wait_for("the program in the chroot", lambda: answers(port), 60)
            program = server.pid
            while children(program):
                program = children(program)[-1]
            self.assertEqual(status_of(program)["Uid"].split(), ["10001"] * 4)
            self.assertEqual(get(port, "/v1/images/demo/3/42.png")[1][:8], PNG)
            for number, code in ((port, 0), (1, 1)):
                health = subprocess.run(
                    ["chroot", "/proc/%d/root" % program, "/usr/lib/imfd/healthcheck"],
                    env={"IMFD_LISTEN": "127.0.0.1:%d" % number, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                    capture_output=True)
                self.assertEqual(health.returncode, code, health)
            server.terminate()
            out = server.communicate(timeout=60)[0]
            self.assertEqual(server.returncode, 0, out)
            self.assertIn("SIGTERM: draining", out)
        finally:
            server.kill()
            server.wait()

    def test_container(self):
        name, port = self.start()
        self.assertEqual(get(port, "/v1/images/demo/3/42.png")[1][:8], PNG)
        self.assertEqual(tool("podman", "healthcheck", "run", name), "")
        self.assertEqual(self.inside(name, "tr '\\0' ' ' </proc/1/cmdline").strip(), "imfd serve")
        status = self.inside(name, "cat /proc/1/status")
        for line in ("Uid:\t10001\t10001\t10001\t10001", "CapEff:\t0000000000000000", "NoNewPrivs:\t1",
                     "Seccomp:\t2"):
            self.assertIn(line, status)
        self.assertEqual(self.inside(name, "for at in / /usr /etc /var /tmp /run /models; do "
                                           "touch $at/x 2>/dev/null && echo $at; done; true"), "")
        # A request in flight is answered before the container ends.
        results = []
        body = json.dumps({"class": 3, "n": 32, "steps": 8})

        def ask():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/v1/generate", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            results.append((answer.status, len(json.loads(answer.read())["data"])))

        client = threading.Thread(target=ask)
        client.start()
        time.sleep(0.15)
        tool("podman", "stop", "--time", "40", name)
        client.join()
        self.assertEqual(results, [(200, 32)])
        self.assertEqual(tool("podman", "inspect", "--format", "{{.State.ExitCode}}", name), "0")

    def test_models_by_environment(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            for f in ("mit_demo", "taesd_demo"):
                shutil.copy(ROOT + "/models/demo/%s.safetensors" % f, folder)
            name, port = self.start(
                "--volume", folder + ":/models:ro", "--env", "IMFD_ROOT_PATH=/pictures", "--env",
                "IMFD_MODELS=id=mine,checkpoint=/models/mit_demo.safetensors,"
                "decoder=/models/taesd_demo.safetensors", prefix="/pictures")
            self.assertEqual(get(port, "/pictures/v1/images/mine/3/42.png")[1][:8], PNG)
            self.assertEqual(tool("podman", "healthcheck", "run", name), "")


class ProcessOne(unittest.TestCase):
    """imfd starts itself once more for OMP_WAIT_POLICY, which must leave it process 1."""

    def setUp(self):
        self.port = free_port()
        self.unshare = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", IMFD, "serve", "--device",
             "fake:step_us=20000", "--listen", "127.0.0.1:%d" % self.port, "--log-level", "warn"],
            env=clean_environment(), stdin=subprocess.DEVNULL)
        self.addCleanup(self.unshare.wait)
        self.addCleanup(self.unshare.kill)
        wait_for("imfd", lambda: answers(self.port))
        self.imfd = children(self.unshare.pid)[0]

    def test_orphans_are_reaped(self):
        self.assertEqual(status_of(self.imfd)["NSpid"].split()[-1], "1")
        subprocess.run(["nsenter", "--target", str(self.imfd), "--pid", "sh", "-c",
                        "(sleep 0.3 & sleep 0.4 &) ; true"], check=True)
        wait_for("the orphans to be imfd's", lambda: len(children(self.imfd)) == 2, 5)
        # A zombie would stay a child, and be seen.
        wait_for("the orphans to be reaped", lambda: children(self.imfd) == [], 5)
        self.assertEqual(get(self.port, "/livez")[0], 200)

    def test_term_drains(self):
        results = []
        client = threading.Thread(target=lambda: results.append(
            get(self.port, "/v1/images/fake/1/1.png?steps=30")[0]))
        client.start()
        time.sleep(0.2)
        os.kill(self.imfd, signal.SIGTERM)
        self.assertEqual(self.unshare.wait(30), 0)
        client.join()
        self.assertEqual(results, [200])


def enter_namespace():
    """podman run wants cgroups of one kind: in a mount namespace of this test's own they are v2."""
    if os.environ.get("IMFD_TEST_NAMESPACE") is None:
        os.environ["IMFD_TEST_NAMESPACE"] = "1"
        script = 'mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; exec "$@"'
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh",
                              sys.executable, "-W", "ignore", *sys.argv])


if __name__ == "__main__":
    need("unshare", "nsenter", "pgrep")
    if os.getuid() != 0 or subprocess.run(["unshare", "--pid", "--mount", "true"]).returncode != 0:
        print("skipped: namespaces need root")
        sys.exit(SKIP)
    if sys.argv[1] == "pid1":
        unittest.main(argv=[sys.argv[0], "ProcessOne"] + sys.argv[2:], verbosity=2)
    need("podman", "buildah", "cmake")
    if not os.path.exists(os.path.join(ROOT, "build", "deploy", "containers")):
        made = tool("base", check=False)
        if made.returncode != 0:
            print("skipped: no Debian 12 to build on:", made.stderr[-1000:])
            sys.exit(SKIP)
    enter_namespace()
    unittest.main(argv=[sys.argv[0]] + (sys.argv[2:] or ["Image"]), verbosity=2)

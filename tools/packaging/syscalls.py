#!/usr/bin/env python3
"""Writes docs/syscalls.md: the system calls that imfd makes, seen by strace over a whole life of the server,
`sample` and `evaluate` on the CPU. Usage: syscalls.py PROGRAM   (strace must be installed)"""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Not met in a quiet run, and needed all the same.
OTHERS = {
    "accept": "where accept4 is missing", "clone": "threads where clone3 is refused", "exit_group": "the end (strace does not count what does not return)",
    "exit": "a thread ends (strace does not count it either)",
    "restart_syscall": "a wait goes on after SIGSTOP", "rt_sigreturn": "after every signal",
    "sched_yield": "waiting for another thread", "nanosleep": "waiting", "clock_nanosleep": "waiting",
    "readv": "libuv", "recvmsg": "libuv", "sendmsg": "sd_notify, libuv", "sendto": "replies", "recvfrom": "requests",
    "connect": "sd_notify", "getpeername": "addresses of clients", "getsockname": "addresses of sockets",
    "getsockopt": "sockets that systemd passed", "sendfile": "replies from files", "writev": "replies and the log",
    "madvise": "memory given back", "mremap": "larger buffers", "mbind": "OpenBLAS", "sched_getaffinity": "counting processors",
    "sched_setaffinity": "OpenMP threads", "fdatasync": "evaluate saves", "fsync": "evaluate saves",
    "rename": "evaluate saves", "unlink": "evaluate saves", "mkdir": "evaluate saves", "getdents64": "evaluate --images",
    "pread64": "checkpoints", "tgkill": "abort", "getpid": "abort", "gettid": "abort", "gettimeofday": "without a vDSO",
    "clock_gettime": "without a vDSO", "time": "without a vDSO", "getcpu": "without a vDSO", "poll": "DNS, libuv",
    "clock_getres": "without a vDSO",
}


def trace(folder, name, command, environment=None):
    log = os.path.join(folder, name + ".calls")
    environment = {k: v for k, v in (environment or os.environ).items() if not k.startswith("IMFD_")}
    process = subprocess.Popen(["strace", "-f", "-c", "-o", log, *command], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, env=environment)
    return process, log


def calls_of(log):
    with open(log) as f:
        return {line.split()[-1] for line in f if re.match(r"\s*\d+\.\d", line)} - {"total"}


def request(url, value=None, **headers):
    data = json.dumps(value).encode() if value else None
    with urllib.request.urlopen(urllib.request.Request(
            url, data, dict(headers, **({"Content-Type": "application/json"} if data else {}))), timeout=300) as answer:
        return answer.read()


def serve(folder, program):
    """Starts, answers every kind of request on TCP and on a unix socket, reopens its log, drains."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(folder + "/notify")
    manager.settimeout(120)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    keys = folder + "/keys"
    with open(keys, "w") as f:
        f.write("me secret-of-mine\n")
    process, log = trace(folder, "serve", [
        program, "serve", "--device", "cpu", "--listen", "127.0.0.1:%d" % port, "--listen",
        "unix:%s/socket" % folder, "--api-keys-file", keys, "--log-file", folder + "/log"],
        dict(os.environ, NOTIFY_SOCKET=folder + "/notify", WATCHDOG_USEC="3000000"))
    while b"STATUS=serving" not in manager.recv(4096):
        pass
    url, key = "http://127.0.0.1:%d" % port, {"Authorization": "Bearer secret-of-mine"}
    for path in ("/", "/metrics", "/readyz", "/openapi.json", "/v1/images/demo/7/42.png", "/v1/images/demo/7/42.png"):
        request(url + path, **key)
    for accept in ("application/json", "text/event-stream", "application/x-ndjson", "multipart/mixed"):
        try:
            request(url + "/v1/generate", {"class": 3, "n": 12}, Accept=accept, **key)
        except urllib.error.HTTPError as e:
            if e.code != 406:
                raise
    request(url + "/v1/generate", {"class": 3}, Accept="image/png", **key)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(folder + "/socket")
        s.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        s.recv(1000)
    child = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True).stdout
    pid = int(child.split()[0])
    os.kill(pid, signal.SIGHUP)
    time.sleep(0.5)
    os.kill(pid, signal.SIGTERM)
    assert process.wait(120) == 0
    return calls_of(log)


def run(folder, name, command):
    process, log = trace(folder, name, command)
    if process.wait(1200) != 0:
        sys.exit("failed: " + " ".join(command))
    return calls_of(log)


def main():
    program = os.path.abspath(sys.argv[1])
    demo = ROOT + "/models/demo"
    with tempfile.TemporaryDirectory() as folder:
        seen = {"serve": serve(folder, program)}
        seen["sample"] = run(folder, "sample", [program, "sample", "--demo", "--device", "cpu", "--classes", "0-7",
                                                "-o", folder + "/grid.png", "--save-images", folder + "/pictures"])
        subprocess.run([program, "synth", "inception", "-o", folder + "/inception.safetensors", "-q"], check=True)
        seen["evaluate"] = run(folder, "evaluate", [
            program, "evaluate", "--ckpt-path", demo + "/mit_demo.safetensors", "--decoder",
            demo + "/taesd_demo.safetensors", "--inception", folder + "/inception.safetensors", "--num-images", "20",
            "--device", "cpu", "--workdir", folder + "/work", "--save-samples", "--quiet"])
    for name in seen["serve"] | seen["sample"] | seen["evaluate"]:
        OTHERS.pop(name, None)
    lines = ["# System calls in use", "",
             "Made by `tools/packaging/syscalls.py build/release/server/imfd` on Debian 12, x86-64 (kernel and C library",
             "choose some of them): strace over the server from start to drain (TCP, unix socket, every kind of reply,",
             "SIGHUP, sd_notify), `sample` and `evaluate`, on the CPU. `conf/imfd.service` allows all of them, and",
             "`tests/deploy/test_supply.py` serves pictures under a filter that kills at any other. A GPU's driver needs",
             "more (`ioctl` above all): the list is for the CPU.", "",
             "| call | serve | sample | evaluate |", "|---|---|---|---|"]
    for call in sorted(set().union(*seen.values())):
        lines.append("| `%s` | %s |" % (call, " | ".join("x" if call in seen[k] else "" for k in seen)))
    lines += ["", "Not met in those runs, and needed under other circumstances:", "", "| call | when |", "|---|---|"]
    lines += ["| `%s` | %s |" % (call, OTHERS[call]) for call in sorted(OTHERS)]
    with open(ROOT + "/docs/syscalls.md", "w") as f:
        f.write("\n".join(lines) + "\n")
    print("docs/syscalls.md: %d calls" % len(set().union(*seen.values())))


if __name__ == "__main__":
    main()

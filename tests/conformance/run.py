"""Runs one conformance suite against a real imfd with the fake engine.

usage: run.py openai|clients|inference|openapi|schemathesis|curl|metadata|promtool IMFD VENV

Exit status 77 means skipped: a tool is missing and could not be had."""
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "http"))


def skip(why):
    print("skipped: " + why)
    sys.exit(77)


def python_with(venv, module):
    """The interpreter of the virtual environment that has `module`, which is made where missing."""
    requirements = os.path.join(HERE, "..", "requirements.txt")
    for attempt in range(2):
        for python in (os.path.join(venv, "bin", "python"), sys.executable):
            if os.path.exists(python) and subprocess.run([python, "-c", "import " + module],
                                                         capture_output=True).returncode == 0:
                return python
        if attempt == 0:
            made = subprocess.run([sys.executable, "-m", "venv", venv], capture_output=True, text=True)
            if made.returncode == 0:
                subprocess.run([os.path.join(venv, "bin", "pip"), "install", "--quiet",
                                "--disable-pip-version-check", "-r", requirements],
                               capture_output=True, timeout=240)
    skip("the Python package %s is not installed and PyPI cannot be reached" % module)


def main():
    suite, os.environ["IMFD"], venv = sys.argv[1:4]
    from imfd_server import Server  # after IMFD is set
    if suite == "openai":
        python = python_with(venv, "openai")
        status = subprocess.run([python, "-W", "ignore", "-m", "unittest", "-v", "test_openai_sdk"],
                                cwd=HERE).returncode
    elif suite == "clients":
        python = python_with(venv, "litellm, langchain_community")
        status = subprocess.run([python, "-W", "ignore", "-m", "unittest", "-v", "test_clients"],
                                cwd=HERE).returncode
    elif suite == "inference":
        python = python_with(venv, "tritonclient.http, kserve")
        status = subprocess.run([python, "-W", "ignore", "-m", "unittest", "-v", "test_inference_clients"],
                                cwd=HERE).returncode
    elif suite == "openapi":
        python = python_with(venv, "openapi_spec_validator")
        status = subprocess.run([python, "-W", "ignore", "-m", "unittest", "-v", "test_openapi"],
                                cwd=HERE).returncode
    elif suite == "schemathesis":
        python = python_with(venv, "schemathesis")
        # Generated requests ask for up to 64 steps and many pictures: small limits keep them quick.
        with Server("--max-n", "8", "--max-queue", "1000", "--max-steps", "64",
                    device="fake:size=16") as server:
            status = subprocess.run(
                [os.path.join(os.path.dirname(python), "schemathesis"), "--config-file",
                 os.path.join(HERE, "schemathesis.toml"), "run",
                 "http://127.0.0.1:%d/openapi.json" % server.port, "--max-examples", "40",
                 "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
                 "response_schema_conformance,response_headers_conformance,unsupported_method",
                 "--seed", "1", "--request-timeout", "20", "--no-color"], cwd="/tmp").returncode
    elif suite == "curl":
        if not shutil.which("curl"):
            skip("curl is not installed")
        status = subprocess.run([sys.executable, "-W", "ignore", "-m", "unittest", "-v", "test_curl"],
                                cwd=HERE).returncode
    elif suite == "metadata":
        if not shutil.which("exiftool"):
            skip("exiftool is not installed (Debian package libimage-exiftool-perl)")
        status = subprocess.run([sys.executable, "-W", "ignore", "-m", "unittest", "-v", "test_metadata"],
                                cwd=HERE).returncode
    elif suite == "promtool":
        promtool = shutil.which("promtool")
        if promtool is None:
            skip("promtool is not installed (Debian package prometheus)")
        with Server() as server:
            server.generate({"class": 1, "n": 3})
            server.generate({"class": 5000})
            server.get("/v1/images/fake/1/1.png")
            text = server.get("/metrics").body
            status = subprocess.run([promtool, "check", "metrics"], input=text).returncode
    else:
        sys.exit("unknown suite " + suite)
    sys.exit(status)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The bill of materials of an imfd program as an SPDX 2.3 document (JSON): the program, its modules, every
shared library that they load (with the Debian package, version and licence of each), and what is embedded or
comes along: the demo model, the class names, the CUDA runtime. Runs on Debian, whose packages are asked.

  sbom.py PROGRAM > sbom.json          the document (SOURCE_DATE_EPOCH is its time)
  sbom.py --licences PROGRAM           a table to read

PROGRAM is installed (modules in ../lib/imfd, data in ../share/imfd) or in a build folder."""
import glob
import hashlib
import json
import os
import re
import subprocess
import sys
import time

# The licence of what is loaded. Debian's copyright files name every licence of a source package, its build
# scripts and manuals too; this says which one the shared library is under. A package that is not here gets
# NOASSERTION with Debian's list in a comment, and tests/deploy/test_supply.py fails.
GCC = "GPL-3.0-or-later WITH GCC-exception-3.1"
BSD_BLAS = "BSD-3-Clause"
LICENCES = {
    "libc6": "LGPL-2.1-or-later", "libcjson1": "MIT", "libdeflate0": "MIT", "libdnnl2": "Apache-2.0",
    "libffi8": "MIT", "libgcc-s1": GCC, "libgfortran5": GCC, "libgomp1": GCC, "libquadmath0": "LGPL-2.1-or-later",
    "libstdc++6": GCC, "libgmp10": "LGPL-3.0-or-later OR GPL-2.0-or-later", "libgnutls30": "LGPL-2.1-or-later",
    "libhogweed6": "LGPL-3.0-or-later OR GPL-2.0-or-later", "libnettle8": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "libidn2-0": "LGPL-3.0-or-later OR GPL-2.0-or-later", "libunistring2": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "libtasn1-6": "LGPL-2.1-or-later", "libp11-kit0": "BSD-3-Clause", "libmicrohttpd12": "LGPL-2.1-or-later",
    "liblapacke": BSD_BLAS, "libtmglib3": BSD_BLAS, "liblapack3": BSD_BLAS, "libblas3": BSD_BLAS,
    "libopenblas0-pthread": BSD_BLAS, "libopenblas0-openmp": BSD_BLAS, "libopenblas0-serial": BSD_BLAS,
    "libjpeg62-turbo": "IJG AND BSD-3-Clause AND Zlib", "libwebp7": "BSD-3-Clause", "libpng16-16": "libpng-2.0",
    "libuv1": "MIT", "ocl-icd-libopencl1": "BSD-2-Clause", "zlib1g": "Zlib",
    "libtbb12": "Apache-2.0", "libxxhash0": "BSD-2-Clause",
}
NVIDIA = "LicenseRef-NVIDIA-CUDA-EULA"
# Parts of packages of NVIDIA's, by the beginning of the library's name.
NVIDIA_LIBRARIES = ("libcublas", "libcudart", "libnvJitLink", "libcuda.")
EXTRACTED = [
    {"licenseId": NVIDIA, "name": "End User License Agreement of the NVIDIA CUDA Toolkit",
     "extractedText": "https://docs.nvidia.com/cuda/eula/: the runtime and cuBLAS may be redistributed with an "
                      "application (Attachment A)."},
    {"licenseId": "LicenseRef-WordNet-3.0", "name": "WordNet 3.0 license",
     "extractedText": "Permission to use, copy, modify and distribute this software and database and its "
                      "documentation for any purpose and without fee or royalty is hereby granted, provided that the "
                      "copyright notice and this statement are kept. Copyright 2006 by Princeton University. The "
                      "whole text is in the file copyright beside this document."},
]


def output(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def loaded(programs):
    """Real paths of everything that the loader maps, by their names; None for what it does not find."""
    found = {}
    for program in programs:
        for name, path in re.findall(r"^\s+(\S+) => (/\S+|not found)", output("ldd", program), flags=re.M):
            found[name] = None if path == "not found" else os.path.realpath(path)
    return found


def loaded_later():
    """Real paths of the libraries that the program loads when it needs them (engine/metrics)."""
    known = output("/sbin/ldconfig", "-p")
    paths = [re.search(r"%s .*=> (/\S+)" % re.escape(name), known) for name in ("libopenblas.so.0", "liblapacke.so.3")]
    return {os.path.basename(m[1]): os.path.realpath(m[1]) for m in paths if m}


def package_of(path):
    # Folders merged into /usr are known to dpkg by either name.
    for name in (path, re.sub(r"^/usr/lib", "/lib", path), "/usr" + path):
        owner = output("dpkg", "-S", name).split(": ")[0]
        if owner:
            return owner.split(",")[0].split(":")[0]
    return None


def debian_licences(package):
    """The License fields of the package's copyright file."""
    try:
        with open("/usr/share/doc/%s/copyright" % package, errors="replace") as f:
            return sorted(set(re.findall(r"^License:[ \t]*(\S.*?)\s*$", f.read(), flags=re.M)))
    except OSError:
        return []


def libraries(programs):
    """(package, version, licence, Debian's licences, files) of each, by package."""
    packages = {}
    later = loaded_later()
    for name, path in dict(loaded(list(programs) + sorted(later.values())), **later).items():
        package = (path and package_of(path)) or name
        packages.setdefault(package, set()).add(os.path.basename(path or name))
    rows = []
    for package, files in sorted(packages.items()):
        first = sorted(files)[0]
        licence = NVIDIA if first.startswith(NVIDIA_LIBRARIES) else LICENCES.get(package, "NOASSERTION")
        version = output("dpkg-query", "-W", "-f=${Version}\n", package).split("\n")[0] or "NOASSERTION"
        rows.append((package, version, licence, debian_licences(package), sorted(files)))
    return rows


def modules(program):
    beside = os.path.join(os.path.dirname(os.path.abspath(program)), "..")
    return sorted(glob.glob(beside + "/lib/imfd/*.so") + glob.glob(beside + "/engine/cuda/*.so"))


def demo_files(program):
    folder = os.path.dirname(os.path.abspath(program))
    while folder != "/":  # as server/cli/demo.c looks for it
        for place in ("share/imfd/demo", "models/demo"):
            files = sorted(glob.glob(os.path.join(folder, place, "*.safetensors")))
            if files:
                return files
        folder = os.path.dirname(folder)
    return []


def part(identity, name, version, licence, **more):
    return dict({"SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", identity), "name": name, "versionInfo": version,
                 "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": licence,
                 "licenseDeclared": licence, "copyrightText": "NOASSERTION"}, **more)


def checksum(path):
    return [{"algorithm": "SHA256", "checksumValue": sha256(path)}]


def spdx(program):
    version = output(program, "--version").split()[-1]
    extra = modules(program)
    program_part = part("imfd", "imfd", version, "MIT", checksums=checksum(program),
                        primaryPackagePurpose="APPLICATION")
    parts, relations = [program_part], [("SPDXRef-DOCUMENT", "DESCRIBES", program_part["SPDXID"])]

    def add(new, relation, of=program_part):
        parts.append(new)
        relations.append((of["SPDXID"], relation, new["SPDXID"]))
        return new

    for path in extra:
        name = os.path.basename(path)
        module = add(part(name, name, version, "MIT", checksums=checksum(path)), "CONTAINS")
        if name == "libimf_cuda.so":
            add(part("cudart", "NVIDIA CUDA runtime", "NOASSERTION", NVIDIA,
                     comment="libcudart_static.a, linked into the module"), "STATIC_LINK", module)
    add(part("imagenet-classes", "ImageNet class names", "timm 1.0.31, WordNet 3.0",
             "Apache-2.0 AND LicenseRef-WordNet-3.0",
             comment="server/api/imagenet_classes.txt, embedded in the program"), "CONTAINS")
    for path in demo_files(program):
        name = os.path.basename(path)
        add(part("demo-" + name, "imfd demo model: " + name, version, "Apache-2.0", checksums=checksum(path),
                 copyrightText="Copyright Google Inc. (the Noto emoji artwork that it was trained on)",
                 comment="Weights trained on glyphs of Noto Color Emoji; see README.md beside them"), "CONTAINS")
    for package, package_version, licence, debian, files in libraries([program] + extra):
        more = {"comment": " ".join(files)}
        if debian:
            more["licenseComments"] = "Licences in Debian's copyright file: " + "; ".join(debian)
        if package_version != "NOASSERTION":
            more["externalRefs"] = [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator":
                                     "pkg:deb/debian/%s@%s" % (package.replace("+", "%2B"),
                                                               package_version.replace("+", "%2B"))}]
        add(part(package, package, package_version, licence, **more), "DYNAMIC_LINK")

    # The time of the sources, so that the same program gives the same document.
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or 0)))
    used = " ".join(p["licenseDeclared"] for p in parts)
    return {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
            "name": "imfd-" + version,
            "documentNamespace": "https://imfd.invalid/spdx/%s-%s" % (version, sha256(program)),
            "creationInfo": {"created": created, "creators": ["Tool: imfd-sbom"]},
            "packages": parts,
            "hasExtractedLicensingInfos": [e for e in EXTRACTED if e["licenseId"] in used],
            "relationships": [{"spdxElementId": a, "relationshipType": kind, "relatedSpdxElement": b}
                              for a, kind, b in relations]}


def main():
    if sys.argv[1:2] == ["--licences"]:
        for package, version, licence, _, files in libraries([sys.argv[2]] + modules(sys.argv[2])):
            print("%-22s %-28s %-45s %s" % (package, version, licence, " ".join(files)))
    elif len(sys.argv) == 2:
        json.dump(spdx(sys.argv[1]), sys.stdout, indent=1)
        print()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes the options of every command, and the settings of serve, into the manual page from what the program
itself prints. Usage: man.py PROGRAM [--check]   (--check: exit status 1 when the page is out of date)"""
import os
import re
import subprocess
import sys

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "imfd.1.in")
BEGIN, END = '.\\" Begin of what man.py writes\n', '.\\" End of what man.py writes\n'


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("@", "\\[at]")
    return "\\&" + text if text[:1] in (".", "'") else text


def help_of(program, command):
    return subprocess.run([program, command, "--help"] if command else [program, "--help"], capture_output=True,
                          text=True, check=True).stdout


def options(text):
    """(heading or None, flags, description) of every option of a --help text."""
    heading, found = None, []
    for line in text.splitlines():
        option = re.match(r"  (-\S.*?)(?:  +(\S.*))?$", line)
        if option:
            found.append([heading, option[1], option[2] or ""])
        elif re.match(r"      +\S", line) and found:
            found[-1][2] = (found[-1][2] + " " + line.strip()).strip()
        elif found and re.match(r"[A-Z][^:.]*$", line):
            heading = line
        elif re.match(r"\S", line) and found and not line.startswith("options"):
            heading = None
            if found[-1][0] is None:
                break  # notes after the options
    return found


def commands(program):
    return re.findall(r"^  ([a-z]+) +\S", help_of(program, None), flags=re.M)


def generate(program):
    lines = ['.SH OPTIONS\n']
    for command in commands(program):
        lines.append(".SS imfd %s\n" % command)
        last = None
        for heading, flags, description in options(help_of(program, command)):
            if heading != last:
                lines.append(".PP\n.I %s\n" % roff(heading))
                last = heading
            lines.append(".TP\n.B %s\n%s\n" % (roff(flags), roff(description)))
    return "".join(lines)


def main():
    with open(PAGE) as f:
        old = f.read()
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    new = before + BEGIN + generate(sys.argv[1]) + END + after
    if sys.argv[2:] == ["--check"]:
        if new != old:
            sys.exit("tools/packaging/imfd.1.in is out of date: run tools/packaging/man.py PROGRAM")
    else:
        with open(PAGE, "w") as f:
            f.write(new)


if __name__ == "__main__":
    main()

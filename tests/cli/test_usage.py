"""Commands, help, versions, wrong usage: exit statuses and sentences."""
import collections
import re
import unittest

from cli_case import CliCase, imfd

COMMANDS = [line.split()[0] for line in imfd("--help")[1].decode().split("commands:")[1].split("\n\n")[0].splitlines()
            if line.strip()]


def options(command):
    """{name or alias: (the first name, bounds or choices)} as --help of a command has them."""
    text = re.split(r"\n\n(?=The flags|Rates|\"of|exit|Without|The release)", imfd(command, "--help")[1].decode())[0]
    found = {}
    for block in re.split(r"\n(?=  --)", text)[1:]:
        head = re.match(r"  (--.*?)(?=  |\n| \(default)", block)[1]
        names = re.findall(r"--[\w-]+|(?<= )-\w\b", head)
        words = " ".join(block.split())
        bounds = re.search(r"([\d.e+-]+ to [\d.e+-]*\d|\w+(?:, \w+)+ or \w+(?=[;.)]))", words[len(head):])
        for name in names:
            found[name] = (names[0], bounds[1] if bounds else None)
    return found


class Usage(CliCase):
    def test_help_and_version(self):
        out = self.ok("--help").decode()
        self.assertIn("usage: imfd COMMAND", out)
        self.assertEqual(self.ok("help").decode(), out)
        self.assertRegex(self.ok("--version").decode(), r"^imfd \d+\.\d+\.\d+\n$")

    def test_every_command_has_help(self):
        self.assertIn("sample", COMMANDS)
        for command in COMMANDS:
            with self.subTest(command):
                out = self.ok(command, "--help").decode()
                self.assertIn(f"imfd {command}", out)

    def test_an_option_means_the_same_in_every_command(self):
        """Where two commands take a flag, its bounds and choices are the same, and so is what they refuse."""
        meanings = collections.defaultdict(dict)
        for command in COMMANDS:
            for name, (_, bounds) in options(command).items():
                meanings[name][command] = bounds
        shared = {n: m for n, m in meanings.items() if len(m) > 1 and any(m.values())}
        self.assertLessEqual({"--device", "--precision", "--threads", "--max-batch", "--gen-bsz", "--steps", "--omega",
                              "--t-min", "--t-max", "--noise-scale"}, set(shared) | {"--device"})
        for name, by_command in shared.items():
            if name != "--num-images":  # two at the least for statistics
                self.assertEqual(len(set(by_command.values())), 1, (name, by_command))
        for flag, value in (("--precision", "fp8"), ("--threads", "1025"), ("--threads", "-1"), ("--gen-bsz", "1025"),
                            ("--steps", "65"), ("--omega", "0.5"), ("--noise-scale", "0")):
            said = set()
            for command in meanings[flag]:
                status, _, err = imfd(command, flag, value)
                self.assertEqual(status, 2, (command, flag))
                said.add(re.search(r"must be (?:.* between )?(.*), not '%s'" % value, err)[1])
            self.assertEqual(len(said), 1, (flag, said))

    def test_unknown(self):
        self.refused(2, ["unknown command 'paint'", "commands:"], "paint")
        self.refused(2, "no command", )
        for command in COMMANDS:
            with self.subTest(command):
                self.refused(2, "no-such-flag", command, "--no-such-flag")


if __name__ == "__main__":
    unittest.main()

"""Commands, help, versions, wrong usage: exit statuses and sentences."""
import unittest

from cli_case import CliCase, imfd

COMMANDS = [line.split()[0] for line in imfd("--help")[1].decode().split("commands:")[1].split("\n\n")[0].splitlines()
            if line.strip()]


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

    def test_unknown(self):
        self.refused(2, ["unknown command 'paint'", "commands:"], "paint")
        self.refused(2, "no command", )
        for command in COMMANDS:
            with self.subTest(command):
                self.refused(2, "no-such-flag", command, "--no-such-flag")


if __name__ == "__main__":
    unittest.main()

"""The compiled kernels on the interpreter: results, coverage, and that every barrier and wait is needed.

    PTX=folder python -m unittest test_kernels

Every kernel must be in a case; every barrier, wait and fence must run in one, and taking any one of them out
must be noticed by a case that runs it.
"""
import concurrent.futures
import functools
import os
import time
import unittest

import cases_sm90  # adds its cases
from cases import CASES, Gpu, difference, read_kernels
from ptx import Fault


@functools.cache
def kernels():
    return read_kernels(os.environ["PTX"])


def run_case(number, changed=()):
    """What went wrong, or None; the positions that ran, by kernel; seconds."""
    start = time.process_time()
    _, run, options = CASES[number]
    gpu = Gpu({**kernels(), **dict(changed)}, **options)
    try:
        got, right, bound = run(gpu)
        error = difference(got, right)
        wrong = None if error <= bound else "error %.2g, bound %.2g" % (error, bound)
    except Fault as fault:
        wrong = str(fault)
    return wrong, gpu.ran, time.process_time() - start


def run_without(name, position, numbers):
    """The first case that notices the kernel without one instruction, and how."""
    changed = ((name, kernels()[name].without(position)),)
    for number in numbers:
        wrong, _, _ = run_case(number, changed)
        if wrong:
            return CASES[number][0], wrong
    return None


class Kernels(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pool = concurrent.futures.ProcessPoolExecutor()
        cls.results = list(cls.pool.map(run_case, range(len(CASES))))

    @classmethod
    def tearDownClass(cls):
        cls.pool.shutdown()

    def test_results(self):
        for (name, _, _), (wrong, _, _) in zip(CASES, self.results):
            with self.subTest(name):
                self.assertIsNone(wrong)

    def test_every_kernel_is_in_a_case(self):
        ran = set().union(*(where for _, where, _ in self.results))
        self.assertEqual(sorted(set(kernels()) - ran), [])

    def test_every_barrier_and_wait_is_needed(self):
        """The quickest cases come first."""
        order = sorted(range(len(CASES)), key=lambda number: self.results[number][2])
        removed = []
        for name, kernel in kernels().items():
            for position, instruction in enumerate(kernel.code):
                if instruction.synchronises:
                    numbers = [n for n in order if position in self.results[n][1].get(name, ())]
                    removed.append((name, position, instruction.text, numbers))
        self.assertGreater(len(removed), 30)
        seen = self.pool.map(run_without, *zip(*[(name, at, numbers) for name, at, _, numbers in removed]))
        for (name, position, text, numbers), noticed in zip(removed, seen):
            with self.subTest(kernel=name, position=position, instruction=text):
                self.assertTrue(numbers, "no case executes it")
                self.assertTrue(noticed, "nothing changes without it")


if __name__ == "__main__":
    unittest.main()

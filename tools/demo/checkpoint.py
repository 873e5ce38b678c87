"""Checkpoints that survive being stopped at any time: written beside the old file, then moved over it."""
import os
import signal
import time

import torch

stop_asked = False


def _ask(_signum, _frame):
    global stop_asked
    stop_asked = True


def catch_signals():
    """SIGTERM and SIGINT end the run after the step in hand, with a checkpoint."""
    signal.signal(signal.SIGTERM, _ask)
    signal.signal(signal.SIGINT, _ask)


def save(state, path):
    tmp = path + ".tmp"
    with open(tmp, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(tmp, path)


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True) if os.path.exists(path) else None


class Every:
    """True once every so many seconds."""

    def __init__(self, seconds):
        self.seconds, self.last = seconds, time.monotonic()

    def __call__(self):
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def step_generator(seed, stage, step):
    """The randomness of one step depends on these three only, so a resumed run draws what an unbroken one would."""
    return torch.Generator().manual_seed((seed * 1_000_003 + stage * 104_729_117 + step) % (1 << 62))

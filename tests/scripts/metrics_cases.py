#!/usr/bin/env python3
"""KID, precision/recall and permutations worked with NumPy and SciPy on the small feature sets of
tests/golden/inception. Without arguments prints the cases as JSON; with --check FILE compares them
with a committed file. Where this Python has no NumPy or SciPy that of build/venv is tried; exit status
77 (skipped) when that has none either."""

import json
import os
import sys

try:
    import numpy as np
    import scipy.linalg
    from scipy.spatial.distance import cdist
except ImportError as e:
    VENV = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build", "venv")
    PYTHON = os.path.join(VENV, "bin", "python")
    if os.path.exists(PYTHON) and not os.path.samefile(sys.prefix, VENV):
        os.execv(PYTHON, [PYTHON, *sys.argv])
    print(f"skipped: {e}")
    sys.exit(77)

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "inception")


def load(name):
    return np.load(os.path.join(HERE, name)).astype(np.float64)


def mmd2(x, y):
    """Unbiased MMD^2 with the kernel (x.y / d + 1)^3."""
    d, m = x.shape[1], len(x)
    kxx, kyy, kxy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    same = kxx.sum() - np.trace(kxx) + kyy.sum() - np.trace(kyy)
    return same / (m * (m - 1)) - 2 * kxy.sum() / m**2


def kid(a, b, subsets, size, seed):
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        x = a[rng.choice(len(a), size, replace=False)]
        y = b[rng.choice(len(b), size, replace=False)]
        values.append(mmd2(x, y))
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def precision_recall(generated, real, k):
    def radii(x):
        d = cdist(x, x)
        np.fill_diagonal(d, np.inf)
        return np.sort(d, axis=1)[:, k - 1]

    d = cdist(generated, real)
    return {
        "precision": float((d <= radii(real)[None, :]).any(axis=1).mean()),
        "recall": float((d.T <= radii(generated)[None, :]).any(axis=1).mean()),
    }


def fid(x, y):
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2)
    d = x.mean(axis=0) - y.mean(axis=0)
    return float(d @ d + np.trace(s1) + np.trace(s2) - 2 * np.trace(root).real)


def cases():
    a, b = load("fid_features_a.npy"), load("fid_features_b.npy")
    near = np.float32(0.35) * a[:400].astype(np.float32) + np.float32(0.65) * b[:400].astype(np.float32)
    near = near.astype(np.float64)
    return {
        "kid_a_b_20x100_seed2020": kid(a, b, 20, 100, 2020),
        "kid_near_b_5x300_seed7": kid(near, b, 5, 300, 7),
        "pr_a_b_k3": precision_recall(a, b, 3),
        "pr_near_b_k3": precision_recall(near, b, 3),
        "pr_near_b_k5": precision_recall(near, b, 5),
        "fid_near_b": fid(near, b),
        "permutation_seed7_n10": np.random.RandomState(7).permutation(10).tolist(),
        "permutation_seed123_n17": np.random.RandomState(123).permutation(17).tolist(),
    }


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(np.allclose(a, b, rtol=1e-9, atol=1e-12))


def main():
    worked = cases()
    if sys.argv[1:2] == ["--check"]:
        with open(sys.argv[2]) as f:
            committed = json.load(f)
        if not same(worked, committed):
            print("differs from", sys.argv[2], json.dumps(worked, indent=1))
            return 1
        print("agrees with", sys.argv[2])
        return 0
    print(json.dumps(worked, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

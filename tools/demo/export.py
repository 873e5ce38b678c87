#!/usr/bin/env python3
"""Write the trained EMA as the two files the server loads, float16, and the golden data of the tests.

    python3 tools/demo/export.py --workdir ~/demo-work [--omega 3 --t-min 0 --t-max 1]

Works at any time, also beside a running training. The golden data (tests/golden/demo) are what this recipe's own
sampler computes in float32 from the float16 weights: the engine is held to them without needing PyTorch.
"""
import argparse
import json
import os

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import checkpoint
from autoencoder import Autoencoder
from data import CLASS_NAMES, to_u8
from mit import MiT, noise_for, sample

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODELS, GOLDEN = os.path.join(ROOT, "models", "demo"), os.path.join(ROOT, "tests", "golden", "demo")
MIT_FILE, TAESD_FILE = os.path.join(MODELS, "mit_demo.safetensors"), os.path.join(MODELS, "taesd_demo.safetensors")


def write_models(args):
    state = checkpoint.load(os.path.join(args.workdir, "mit.pt"))
    width, shared, u, v, patch = state["shape"]
    net = MiT(width, shared, u, v, len(CLASS_NAMES), 16, 4, patch)
    tensors = {}
    for (name, p), ema in zip(net.named_parameters(), state["ema"]):
        assert p.shape == ema.shape
        if not name.startswith(("v_heads.", "v_final_layer.")):
            tensors["net." + name] = ema.half().contiguous()
    meta = {"name": "imfd demo", "input_size": "16", "class_names": json.dumps(CLASS_NAMES), "default_steps": str(args.steps),
            "default_omega": str(args.omega), "default_t_min": str(args.t_min), "default_t_max": str(args.t_max),
            "training_steps": str(state["step"])}
    os.makedirs(MODELS, exist_ok=True)
    save_file(tensors, MIT_FILE, meta)
    decoder = checkpoint.load(os.path.join(args.workdir, "dec.pt")) or checkpoint.load(os.path.join(args.workdir, "ae.pt"))
    prefix = "decoder."
    save_file({k[len(prefix):]: t.half().contiguous() for k, t in decoder["model"].items() if k.startswith(prefix)},
              TAESD_FILE, {"name": "imfd demo decoder"})
    for path in (MIT_FILE, TAESD_FILE):
        os.chmod(path, 0o644)
        print(path, os.path.getsize(path), "bytes")
    print("training steps", state["step"])


def load_models():
    """(net, autoencoder with the exported decoder), float32 copies of the exported files."""
    tensors = {k.removeprefix("net."): t.float() for k, t in load_file(MIT_FILE).items()}
    width, _, patch, _ = tensors["x_embedder.proj.weight"].shape
    depth = lambda part: len({k.split(".")[1] for k in tensors if k.startswith(part + ".")})
    net = MiT(width, depth("shared_blocks"), depth("u_heads"), 0, len(CLASS_NAMES), 16, 4, patch)
    missing, unexpected = net.load_state_dict(tensors, strict=False)
    assert not unexpected and all(k.startswith("v_final_layer.") for k in missing)
    ae = Autoencoder().eval()
    ae.decoder.load_state_dict({k: t.float() for k, t in load_file(TAESD_FILE).items()})
    return net.eval(), ae


def write_golden():
    cases = [  # tests/golden/test_demo.c has the same table
        {"name": "one_step", "labels": [0, 3, 6, 12], "seeds": [0, 1, 2, 4294967295], "steps": 1,
         "omega": 3.0, "t_min": 0.0, "t_max": 1.0, "pictures": True},
        {"name": "two_steps", "labels": [7, 14, 19], "seeds": [5, 6, 7], "steps": 2,
         "omega": 3.0, "t_min": 0.0, "t_max": 1.0, "pictures": False},
        {"name": "null_class", "labels": [20], "seeds": [42], "steps": 1,
         "omega": 1.0, "t_min": 0.0, "t_max": 1.0, "pictures": False},
        {"name": "five_steps", "labels": [1, 18], "seeds": [11, 12], "steps": 5,
         "omega": 7.5, "t_min": 0.25, "t_max": 0.75, "pictures": False},
    ]
    net, ae = load_models()
    os.makedirs(GOLDEN, exist_ok=True)
    for c in cases:
        with torch.no_grad():
            z = sample(net, noise_for(c["seeds"]), torch.tensor(c["labels"]), c["steps"], c["omega"], c["t_min"], c["t_max"])
            c["latents"] = f"latents_{c['name']}.npy"
            np.save(os.path.join(GOLDEN, c["latents"]), z.numpy())
            if c.pop("pictures"):
                c["pictures"] = f"pictures_{c['name']}_u8.npy"
                np.save(os.path.join(GOLDEN, c["pictures"]), to_u8(ae.decode(z)))
    with open(os.path.join(GOLDEN, "cases.json"), "w") as f:
        json.dump({"class_names": CLASS_NAMES, "latent": [4, 16, 16], "picture": [128, 128, 3], "cases": cases}, f, indent=1)
        f.write("\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workdir", default=os.path.expanduser("~/.cache/imfd-demo"))
    p.add_argument("--steps", type=int, default=1)
    p.add_argument("--omega", type=float, default=3.0)
    p.add_argument("--t-min", type=float, default=0.0)
    p.add_argument("--t-max", type=float, default=1.0)
    p.add_argument("--golden-only", action="store_true", help="leave the model files as they are")
    args = p.parse_args()
    if not args.golden_only:
        write_models(args)
    write_golden()


if __name__ == "__main__":
    main()

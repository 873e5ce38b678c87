#!/usr/bin/env python3
"""Figures and the picture grid of the exported demo model.

    python3 tools/demo/measure.py --workdir ~/demo-work

A small classifier is trained on freshly painted pictures (never on samples) and asked what the samples show: agreement
with the asked class at several omega, 1 and 2 steps. Nearest neighbours among the training latents, against the same
distance for pictures the model never saw, tell how much is memorised. Writes models/demo/grid.png.
"""
import argparse
import json
import math
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors import safe_open

import checkpoint
from data import CLASS_NAMES, CLASSES, Painter, sheet, to_u8
from export import MIT_FILE, MODELS, load_models
from mit import noise_for, sample

N_CLASSES = len(CLASSES)


def classifier_net():
    layers, c = [nn.AvgPool2d(2)], 3
    for width in (32, 64, 96, 128):
        layers += [nn.Conv2d(c, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        c = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, N_CLASSES))


def classifier(args):
    """Trained on painted pictures, some softened and some with noise, since samples are a little softer than data."""
    path = os.path.join(args.workdir, "classifier.pt")
    net, painter, state = classifier_net(), Painter(), checkpoint.load(os.path.join(args.workdir, "classifier.pt"))
    if state is None:
        torch.manual_seed(args.seed)
        opt = torch.optim.Adam(net.parameters(), 2e-3)
        for step in range(args.classifier_steps):
            gen = checkpoint.step_generator(args.seed, 6, step)
            y = torch.randint(N_CLASSES, (36,), generator=gen)
            x = painter.pictures(y, gen)[0]
            x[:12] = F.interpolate(F.avg_pool2d(x[:12], 4), scale_factor=4, mode="bilinear")
            x[12:24] += 0.1 * torch.randn(x[12:24].shape, generator=gen)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(net(x).float(), y)
            for g in opt.param_groups:
                g["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / args.classifier_steps)) + 1e-5
            opt.zero_grad()
            loss.backward()
            opt.step()
        state = {"model": net.state_dict()}
        checkpoint.save(state, path)
    net.load_state_dict(state["model"])
    net.eval()
    y = torch.arange(400) % N_CLASSES
    x = painter.pictures(y, checkpoint.step_generator(args.seed, 7, 0))[0]
    return net, x, y


def agreement(net, pictures, labels):
    """For each picture: does the classifier see the asked class, and the probability it gives it."""
    with torch.no_grad():
        p = torch.cat([net(part).float().softmax(1) for part in pictures.split(100)])
    return (p.argmax(1) == labels).float(), p[torch.arange(len(labels)), labels]


def decode(ae, z):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return torch.cat([ae.decode(p).float().clamp(0, 1) for p in z.split(50)])


def nearest(z, labels, bank, bank_labels):
    """Root mean square distance of each latent to the nearest latent of its class in the bank."""
    out = torch.empty(len(z))
    for c in range(N_CLASSES):
        at = labels == c
        out[at] = torch.cdist(z[at].flatten(1), bank[bank_labels == c].float().flatten(1)).min(1).values
    return out / math.sqrt(z[0].numel())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workdir", default=os.path.expanduser("~/.cache/imfd-demo"))
    p.add_argument("--seed", type=int, default=2)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--samples", type=int, default=1000)
    p.add_argument("--classifier-steps", type=int, default=200)
    p.add_argument("--omegas", type=float, nargs="*", default=[1, 2, 3, 5, 7])
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    with safe_open(MIT_FILE, "pt") as f:
        meta = f.metadata()
    omega, t_min, t_max = (float(meta["default_" + k]) for k in ("omega", "t_min", "t_max"))
    net, ae = load_models()
    judge, held, held_y = classifier(args)
    right, _ = agreement(judge, held, held_y)
    report = {"training_steps": int(meta["training_steps"]), "classifier_on_unseen_pictures": right.mean().item()}
    labels = torch.arange(args.samples) * N_CLASSES // args.samples
    noise = noise_for(range(args.samples))
    rows = [(o, 1) for o in args.omegas] + [(omega, 1), (omega, 2)]
    for o, steps in dict.fromkeys(rows):
        with torch.no_grad():
            z = sample(net, noise, labels, steps, o, t_min, t_max)
        right, sure = agreement(judge, decode(ae, z), labels)
        report[f"agreement omega {o:g} steps {steps}"] = round(right.mean().item(), 4)
        report[f"probability omega {o:g} steps {steps}"] = round(sure.mean().item(), 4)
        print(f"omega {o:g} steps {steps}: agreement {right.mean():.4f}, probability {sure.mean():.4f}", flush=True)
        if (o, steps) == (omega, 1):
            chosen = z
            report["per_class"] = {n: round(right[labels == c].mean().item(), 3) for c, n in enumerate(CLASS_NAMES)}
            print(report["per_class"])
    data = checkpoint.load(os.path.join(args.workdir, "latents.pt"))
    full = checkpoint.load(os.path.join(args.workdir, "ae.pt"))
    enc = type(ae)().eval()
    enc.load_state_dict(full["model"])
    with torch.no_grad():
        held_z = torch.cat([enc.encode(x) for x in held.split(100)])
        mse = (ae.decode(held_z[:200]).clamp(0, 1) - held[:200]).square().mean().item()
    report["reconstruction_db"] = round(-10 * math.log10(mse), 2)
    for name, (a, b) in {"samples": (chosen, labels), "unseen pictures": (held_z, held_y)}.items():
        d = nearest(a, b, data["z"], data["labels"])
        report["nearest training latent, rms: " + name] = [round(v, 3) for v in d.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()]
    pairs = [(chosen[labels == c][0::2] - chosen[labels == c][1::2]).square().mean((1, 2, 3)).sqrt() for c in range(N_CLASSES)]
    report["rms between two samples of one class"] = round(torch.cat(pairs).mean().item(), 3)
    print(json.dumps(report, indent=1))
    with open(os.path.join(args.workdir, "figures.json"), "w") as f:
        json.dump(report, f, indent=1)
    grid_labels = torch.arange(N_CLASSES).repeat_interleave(8)
    with torch.no_grad():
        z = sample(net, noise_for(list(range(8)) * N_CLASSES), grid_labels, 1, omega, t_min, t_max)
        pictures = torch.cat([ae.decode(part) for part in z.split(40)])
    sheet(to_u8(pictures), 16, os.path.join(MODELS, "grid.png"), 64)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The demo model from nothing to trained weights, in one command:

    nice -n 15 python3 tools/demo/demo_train.py --workdir ~/demo-work

Stages: autoencoder, latents, decoder polish, MiT (improved MeanFlow). Stop it at any time (Ctrl-C, kill, power):
the same command goes on from the last checkpoint in --workdir. `export.py` writes the EMA to models/demo at any time.
"""
import argparse
import os

import torch

import checkpoint
import train_ae
import train_mit


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workdir", default=os.path.expanduser("~/.cache/imfd-demo"), help="checkpoints and logs")
    p.add_argument("--seed", type=int, default=2)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--stage", choices=["all", "ae", "latents", "dec", "mit"], default="all")
    p.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    p.add_argument("--show-every", type=float, default=600, help="seconds between sample sheets of the MiT")
    p.add_argument("--pool", type=int, default=6000, help="pictures the autoencoder learns from")
    p.add_argument("--pictures", type=int, default=16000, help="pictures the MiT learns from")
    p.add_argument("--ae-steps", type=int, default=1000)
    p.add_argument("--dec-steps", type=int, default=1000)
    p.add_argument("--width", type=int, default=192)
    p.add_argument("--shared", type=int, default=4, help="shared blocks")
    p.add_argument("--u-heads", type=int, default=4, help="blocks of the u path after the shared ones")
    p.add_argument("--v-heads", type=int, default=2, help="blocks of the v path, training only")
    p.add_argument("--patch", type=int, default=4)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--warmup", type=int, default=200)
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--one-step", type=float, default=0.5, help="share of the mean-flow half with r = 0")
    p.add_argument("--mit-steps", type=int, default=20000)
    p.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of one thread each, for the MiT")
    p.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    p.add_argument("--sync", help=argparse.SUPPRESS)
    p.add_argument("--until", metavar="HH:MM", help="time of day by which the learning rate of the MiT has fallen")
    p.add_argument("--no-compile", dest="compile", action="store_false", help="do without torch.compile (slower)")
    args = p.parse_args()
    os.makedirs(args.workdir, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    checkpoint.catch_signals()
    ae = train_ae.train(args)
    if args.stage == "ae":
        return
    data = train_ae.write_latents(args, ae)
    if args.stage in ("all", "dec") and args.rank == 0:
        ae = train_ae.train(args, decoder_only=True)
    if args.stage in ("all", "mit"):
        train_mit.train(args, ae, data)


if __name__ == "__main__":
    main()

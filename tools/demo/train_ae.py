"""Stages 1 and 2: train the autoencoder, then turn a large set of augmented pictures into latents."""
import math
import os
import time

import numpy as np
import torch

import checkpoint
from autoencoder import Autoencoder, picture_loss
from data import CLASSES, Painter, sheet, to_u8

CROP = 64


def paint_pool(painter, seed, stage, n):
    """n random pictures of every class in turn, uint8 [n,3,128,128], for fast random crops."""
    out = torch.empty(n, 3, 128, 128, dtype=torch.uint8)
    for i in range(0, n, 64):
        gen = checkpoint.step_generator(seed, stage, i)
        labels = torch.arange(i, min(i + 64, n)) % len(CLASSES)
        out[i:i + 64] = (painter.pictures(labels, gen)[0] * 255).round().to(torch.uint8)
    return out


def crops(pool, batch, gen):
    """Random 64x64 crops on the latent's grid of 8 pixels; a quarter of the work of whole pictures."""
    at = torch.randint(len(pool), (batch,), generator=gen).tolist()
    yx = (torch.randint(9, (batch, 2), generator=gen) * 8).tolist()
    x = torch.stack([pool[i, :, y:y + CROP, x:x + CROP] for i, (y, x) in zip(at, yx)])
    return (x.float() / 255).contiguous(memory_format=torch.channels_last)


def rate(step, steps, peak):
    return peak * min(1.0, (step + 1) / 50) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def train(args, decoder_only=False):
    """Joint training; or, with decoder_only, more steps for the decoder against the frozen encoder."""
    name, stage, steps = ("dec", 3, args.dec_steps) if decoder_only else ("ae", 1, args.ae_steps)
    path = os.path.join(args.workdir, name + ".pt")
    ae = Autoencoder().to(memory_format=torch.channels_last)
    state = checkpoint.load(path)
    if state is None and decoder_only:
        ae.load_state_dict(checkpoint.load(os.path.join(args.workdir, "ae.pt"))["model"])
    if decoder_only:
        ae.encoder.requires_grad_(False)
        ae.norm.eval()
    params = [p for p in ae.parameters() if p.requires_grad]
    opt = torch.optim.Adam(params, 1e-3, betas=(0.9, 0.99), fused=True)
    step = 0
    if state is not None:
        ae.load_state_dict(state["model"])
        opt.load_state_dict(state["opt"])
        step = state["step"]
    if step >= steps:
        return ae.eval()
    painter = Painter()
    pool = paint_pool(painter, args.seed, 10 + stage, args.pool)
    due, t0, mean = checkpoint.Every(args.save_every), time.time(), 0.0
    peak = 4e-4 if decoder_only else 1.5e-3
    while step < steps:
        gen = checkpoint.step_generator(args.seed, stage, step)
        for g in opt.param_groups:
            g["lr"] = rate(step, steps, peak)
        x = crops(pool, 24, gen)
        with torch.autocast("cpu", torch.bfloat16):
            z = ae.encode(x)
            # Noise of random strength makes the decoder forgive what the generator gets slightly wrong.
            sigma = 0.25 * torch.rand(len(z), 1, 1, 1, generator=gen)
            y = ae.decode(z + sigma * torch.randn(z.shape, generator=gen))
        loss = picture_loss(y.float(), x)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        mean += loss.item()
        if step % 25 == 0:
            print(f"{name} {step}/{steps} loss {mean / 25:.4f} {(time.time() - t0) / 25:.3f} s/step", flush=True)
            t0, mean = time.time(), 0.0
        last = step >= steps or checkpoint.stop_asked
        if last and not decoder_only:
            settle_norm(ae, pool)
        if last or due():
            checkpoint.save({"model": ae.state_dict(), "opt": opt.state_dict(), "step": step}, path)
            show(ae, pool, os.path.join(args.workdir, name + ".png"))
        if checkpoint.stop_asked:
            raise SystemExit(0)
    return ae.eval()


def settle_norm(ae, pool):
    """Statistics of the latents over many whole pictures instead of the running average over crops."""
    with torch.no_grad():
        h = torch.cat([ae.encoder(pool[i:i + 32].float() / 127.5 - 1) for i in range(0, min(len(pool), 1024), 32)])
    ae.norm.running_mean.copy_(h.mean((0, 2, 3)))
    ae.norm.running_var.copy_(h.var((0, 2, 3)))


def show(ae, pool, path):
    """Pictures over their reconstructions, and the PSNR."""
    was = ae.training
    ae.eval()
    x = pool[:40].float() / 255
    with torch.no_grad():
        y = ae.decode(ae.encode(x))
    mse = (y.clamp(0, 1) - x).square().mean().item()
    print(f"   reconstruction {-10 * math.log10(mse):.2f} dB", flush=True)
    sheet(np.concatenate([to_u8(x[:20]), to_u8(y[:20]), to_u8(x[20:]), to_u8(y[20:])]), 20, path, 96)
    ae.train(was)
    if not ae.encoder.colour.weight.requires_grad:
        ae.norm.eval()


def write_latents(args, ae):
    """latents.pt: float16 latents of args.pictures pictures (a new glyph pose each), labels and glyph numbers."""
    path = os.path.join(args.workdir, "latents.pt")
    done = checkpoint.load(path)
    if done is not None:
        return done
    painter, t0 = Painter(), time.time()
    z = torch.empty(args.pictures, 4, 16, 16, dtype=torch.float16)
    labels = torch.arange(args.pictures) % len(CLASSES)
    which = torch.empty(args.pictures, dtype=torch.long)
    ae.eval().to(memory_format=torch.channels_last)
    for i in range(0, args.pictures, 64):
        gen = checkpoint.step_generator(args.seed, 2, i)
        x, which[i:i + 64] = painter.pictures(labels[i:i + 64], gen)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            z[i:i + 64] = ae.encode(x.contiguous(memory_format=torch.channels_last)).half()
        if checkpoint.stop_asked:
            raise SystemExit(0)
    f = z.float()
    print(f"{args.pictures} latents in {time.time() - t0:.0f} s; mean {f.mean((0, 2, 3)).tolist()}, "
          f"std {f.std((0, 2, 3)).tolist()}, max {f.abs().max():.2f}", flush=True)
    done = {"z": z, "labels": labels, "which": which}
    checkpoint.save(done, path)
    return done

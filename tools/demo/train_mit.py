"""Stage 3: the MiT, by the improved MeanFlow objective (arXiv 2512.02012) on the latents of stage 2.

What differs from the paper, for the sake of a run of an hour or two on two cores:
- a share `--one-step` of the mean-flow samples has r = 0 and t = 1 or (half of them) t uniform: the interval that
  one-step sampling asks for, and those its derivative leans on;
- for flow-matching samples the conditional velocity of the guided target is the v output of the training pass itself
  (same inputs, so the same number), which saves a pass;
- the learning rate falls at the end, by the step count or (--until) by the clock.
"""
import math
import os
import time

import torch

import checkpoint
from data import CLASSES, sheet, to_u8
from mit import Block, MiT, noise_for, sample
from workers import Workers


def draw(n, gen, one_step):
    """(t, r, omega, t_min, t_max): the first half of the batch is flow matching, r = t over the whole interval."""
    half = n // 2
    s = torch.sigmoid(torch.randn(n, 2, generator=gen) - 0.4)
    t, r = s.max(1).values, s.min(1).values
    c = torch.rand(n, 2, generator=gen)
    chain = c[:, 0] < one_step
    t = torch.where(chain, torch.clamp(2 * c[:, 1], max=1.0), t)
    r = torch.where(chain, 0.0, r)
    flow = torch.arange(n) < half
    t = torch.where(flow, s[:, 0], t)
    r = torch.where(flow, t, r)
    u = torch.rand(n, 3, generator=gen)
    omega = torch.exp(u[:, 0] * math.log(8.0))
    t_min, t_max = torch.where(flow, 0.0, 0.5 * u[:, 1]), torch.where(flow, 1.0, 0.5 + 0.5 * u[:, 2])
    return t, r, omega, t_min, t_max


def adaptive(a, b):
    s = (a - b).square().sum((1, 2, 3))
    return s / (s.detach() + 0.01)


def objective(net, x, e, y, dropped, t, r, omega, t_min, t_max):
    """Loss of one batch, the first half of which has r = t. For the log also the plain squared errors of u and v on the
    first half, then on the second."""
    n = len(x)
    half = n // 2
    tt = t.view(-1, 1, 1, 1)
    z, v_t = (1 - tt) * x + tt * e, e - x
    y = torch.where(dropped, net.classes, y)
    w = torch.where((t >= t_min) & (t <= t_max), omega, torch.ones_like(omega))
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    with torch.no_grad():
        both = net.v(torch.cat([z, z[half:]]), torch.cat([zero, zero[half:]]), torch.cat([one, w[half:]]),
                     torch.cat([zero, zero[half:]]), torch.cat([one, one[half:]]),
                     torch.cat([torch.full_like(y, net.classes), y[half:]]))
        v_u, v_c2 = both[:n], both[n:]
        dudt = net.dudt(z[half:], v_c2, (t - r)[half:], omega[half:], t_min[half:], t_max[half:], y[half:])
    u, v = net.u_and_v(z, t - r, omega, t_min, t_max, y)
    with torch.no_grad():
        v_c = torch.cat([v[:half].detach(), v_c2])
        k = torch.where(dropped, zero, 1 - 1 / w).view(-1, 1, 1, 1)
        v_g = v_t + k * (v_c - v_u)
        correction = torch.cat([torch.zeros_like(dudt), (t - r)[half:].view(-1, 1, 1, 1) * dudt])
    big_v = u + correction
    loss = (adaptive(big_v, v_g) + adaptive(v, v_g)).mean()
    errors = torch.stack([(a - v_g).detach()[part].square().mean() for part in (slice(0, half), slice(half, n))
                          for a in (big_v, v)])
    return loss, errors


class Ema:
    def __init__(self, net):
        self.params = [p.detach().clone() for p in net.parameters()]

    @torch.no_grad()
    def update(self, net, step, decay):
        d = min(decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.params, list(net.parameters()), 1 - d)

    def into(self, net):
        with torch.no_grad():
            for p, q in zip(net.parameters(), self.params):
                p.copy_(q)
        return net


def build(args):
    return MiT(args.width, args.shared, args.u_heads, args.v_heads, len(CLASSES), 16, 4, args.patch)


def rate(step, args):
    """Warm-up, a constant rate, and a cosine down to a twentieth over the last quarter of the steps or, with --until,
    over the last twenty minutes before that time of day, whichever is further."""
    if step < args.warmup:
        return args.lr * (step + 1) / args.warmup
    tail = (step / args.mit_steps - 0.75) / 0.25
    if args.until:
        now, hour, minute = time.localtime(), *map(int, args.until.split(":"))
        left = hour * 60 + minute - now.tm_hour * 60 - now.tm_min - now.tm_sec / 60
        tail = max(tail, 1 - ((left + 720) % 1440 - 720) / 20)  # the nearest such time, also beyond midnight
    return args.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, tail)))))


def show(net, ae, path, omega, t_min=0.0, t_max=1.0, per_class=2):
    """One-step samples of every class, two classes a row, the same seeds for all."""
    labels = torch.arange(len(CLASSES)).repeat_interleave(per_class)
    noise = noise_for(list(range(per_class)) * len(CLASSES))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pictures = ae.decode(sample(net, noise, labels, 1, omega, t_min, t_max))
    sheet(to_u8(pictures), 5 * per_class, path, 96)


def train(args, ae, data):
    """Trains from the last checkpoint to --mit-steps; returns the EMA."""
    path = os.path.join(args.workdir, "mit.pt")
    workers = Workers(args)
    share = args.batch // workers.size
    net, shown = build(args), build(args)
    params = list(net.parameters())
    opt = torch.optim.Adam(params, args.lr, betas=(0.9, 0.95), fused=True)
    step, state = 0, checkpoint.load(path)
    if state is not None:
        net.load_state_dict(state["model"])
        opt.load_state_dict(state["opt"])
        step = state["step"]
    ema = Ema(net)
    if state is not None:
        ema.params = state["ema"]
    if args.compile:
        # One block at a time: compiled once for all blocks, in seconds, where the whole step takes minutes.
        Block.forward, Block.dual = torch.compile(Block.forward), torch.compile(Block.dual)
    due, show_due = checkpoint.Every(args.save_every), checkpoint.Every(args.show_every)
    t0, sums, since = time.time(), torch.zeros(4), 0
    while step < args.mit_steps:
        gen = checkpoint.step_generator(args.seed, 4, step * workers.size + workers.rank)
        at = torch.randint(len(data["z"]), (share,), generator=gen)
        x, y = data["z"][at].float(), data["labels"][at]
        e = torch.randn(x.shape, generator=gen)
        dropped = torch.rand(share, generator=gen) < 0.1
        with torch.autocast("cpu", torch.bfloat16):
            loss, errors = objective(net, x, e, y, dropped, *draw(share, gen, args.one_step))
        opt.zero_grad()
        loss.backward()
        stop, lr = workers.average(params, rate(step, args))
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for g in opt.param_groups:
            g["lr"] = lr
        opt.step()
        step, since, sums = step + 1, since + 1, sums + errors
        if workers.rank == 0:
            ema.update(net, step, args.ema)
            if step % 100 == 0:
                flow_u, flow_v, mean_u, mean_v = (sums / since).tolist()
                print(f"mit {step}/{args.mit_steps} r=t: u {flow_u:.4f} v {flow_v:.4f} r<t: u {mean_u:.4f} v {mean_v:.4f} "
                      f"lr {lr:.1e} {(time.time() - t0) / since:.3f} s/step", flush=True)
                t0, sums, since = time.time(), torch.zeros(4), 0
            if stop or step >= args.mit_steps or due():
                checkpoint.save({"model": net.state_dict(), "opt": opt.state_dict(), "ema": ema.params, "step": step,
                                 "shape": [args.width, args.shared, args.u_heads, args.v_heads, args.patch]}, path)
                if not stop and show_due():
                    show(ema.into(shown), ae, os.path.join(args.workdir, "mit.png"), 3.0)
        if stop:
            break
    workers.finish()
    return ema.into(shown)

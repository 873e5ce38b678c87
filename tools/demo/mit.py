"""The MiT network in PyTorch with the state-dict names of the published release (without their `net.` prefix).

Next to its ordinary forward pass the u path has a hand-written forward-mode derivative (`dual`): a layer takes the
primal x and the tangent dx and gives both results. The tangent is only ever used as a constant of the loss, so it is
computed without gradient from detached primals, which makes du/dt cost one more forward pass and nothing backward.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

PREFIX = (("class_tokens", 8), ("omega_tokens", 4), ("t_min_tokens", 2), ("t_max_tokens", 2), ("time_tokens", 4))
N_PREFIX = 20
HEAD = 64
EPS = 1e-6


class Linear(nn.Module):
    """A linear layer under the release's name `_flax_linear`."""

    def __init__(self, fan_in, fan_out, bias, std):
        super().__init__()
        self._flax_linear = nn.Linear(fan_in, fan_out, bias=bias)
        nn.init.normal_(self._flax_linear.weight, std=std)
        if bias:
            nn.init.zeros_(self._flax_linear.bias)

    def forward(self, x):
        return self._flax_linear(x)

    def tangent(self, dx):
        return F.linear(dx, self._flax_linear.weight)


class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * self.weight

    def tangent(self, x, dx):
        x, dx = x.float(), dx.float()
        r = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
        return (dx - x * (r * r * (x * dx).mean(-1, keepdim=True))) * r * self.weight


class ScalarEmbedder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mlp = nn.Sequential(Linear(256, width, True, 256 ** -0.5), nn.SiLU(), Linear(width, width, True, width ** -0.5))
        self.register_buffer("freq", torch.exp(-math.log(10000.0) * torch.arange(128).float() / 128), persistent=False)

    def forward(self, s):
        a = s[:, None].float() * self.freq
        return self.mlp(torch.cat([torch.cos(a), torch.sin(a)], -1))

    def tangent(self, s, ds):
        a, da = s[:, None].float() * self.freq, ds[:, None].float() * self.freq
        x, dx = torch.cat([torch.cos(a), torch.sin(a)], -1), torch.cat([-torch.sin(a) * da, torch.cos(a) * da], -1)
        return self.mlp[2].tangent(silu_tangent(self.mlp[0](x), self.mlp[0].tangent(dx)))


def silu_tangent(x, dx):
    s = torch.sigmoid(x)
    return dx * s * (1 + x * (1 - s))


class LabelEmbedder(nn.Module):
    class _Table(nn.Module):
        def __init__(self, n, width):
            super().__init__()
            self._flax_embedding = nn.Embedding(n, width)
            nn.init.normal_(self._flax_embedding.weight, std=width ** -0.5)

    def __init__(self, classes, width):
        super().__init__()
        self.embedding_table = self._Table(classes + 1, width)

    def forward(self, y):
        return self.embedding_table._flax_embedding(y)


class PatchEmbedder(nn.Module):
    def __init__(self, channels, patch, width):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)
        nn.init.normal_(self.proj.weight, std=(channels * patch * patch) ** -0.5)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x):
        return self.cut(x, self.proj.bias)

    def tangent(self, dx):
        return self.cut(dx, None)

    def cut(self, x, bias):
        b, c, s, _ = x.shape
        p = self.proj.kernel_size[0]
        x = x.view(b, c, s // p, p, s // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, (s // p) ** 2, c * p * p)
        return F.linear(x, self.proj.weight.flatten(1), bias)


def rope_tables(tokens):
    angle = torch.arange(tokens).float()[:, None] * (1.0 / 10000.0 ** (torch.arange(0, HEAD, 2).float() / HEAD))
    return torch.cos(angle), torch.sin(angle)


def rope(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        std = 0.32 * width ** -0.5
        self.q_proj, self.k_proj = Linear(width, width, False, std), Linear(width, width, False, std)
        self.v_proj, self.out_proj = Linear(width, width, False, std), Linear(width, width, False, std)
        self.q_norm, self.k_norm = RMSNorm(HEAD), RMSNorm(HEAD)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], -1, HEAD).transpose(1, 2)

    def merge(self, x):
        return x.transpose(1, 2).flatten(2)

    def forward(self, x, cos, sin):
        q = rope(self.q_norm(self.split(self.q_proj(x))), cos, sin)
        k = rope(self.k_norm(self.split(self.k_proj(x))), cos, sin)
        v = self.split(self.v_proj(x))
        p = torch.softmax((torch.matmul(q, k.transpose(-1, -2)) / 8).float(), -1)
        return self.out_proj(self.merge(torch.matmul(p, v)))

    def tangent(self, x, dx, cos, sin):
        q0, k0, v = self.split(self.q_proj(x)), self.split(self.k_proj(x)), self.split(self.v_proj(x))
        dq = rope(self.q_norm.tangent(q0, self.split(self.q_proj.tangent(dx))), cos, sin)
        dk = rope(self.k_norm.tangent(k0, self.split(self.k_proj.tangent(dx))), cos, sin)
        dv = self.split(self.v_proj.tangent(dx))
        q, k = rope(self.q_norm(q0), cos, sin), rope(self.k_norm(k0), cos, sin)
        p = torch.softmax((torch.matmul(q, k.transpose(-1, -2)) / 8).float(), -1)
        ds = (torch.matmul(dq, k.transpose(-1, -2)) + torch.matmul(q, dk.transpose(-1, -2))).float() / 8
        dp = p * (ds - (p * ds).sum(-1, keepdim=True))
        do = torch.matmul(dp, v) + torch.matmul(p, dv)
        return self.out_proj(self.merge(torch.matmul(p, v))), self.out_proj.tangent(self.merge(do))


class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        hidden = width * 8 // 3
        self.w1, self.w3 = (Linear(width, hidden, False, 0.32 * width ** -0.5) for _ in range(2))
        self.w2 = Linear(hidden, width, False, 0.32 * hidden ** -0.5)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))

    def tangent(self, x, dx):
        a, b = self.w1(x), self.w3(x)
        da, db = self.w1.tangent(dx), self.w3.tangent(dx)
        return self.w2(F.silu(a) * b), self.w2.tangent(silu_tangent(a, da) * b + F.silu(a) * db)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attn, self.mlp = Attention(width), MLP(width)
        self.attn_scale, self.mlp_scale = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x, cos, sin):
        x = x + self.attn_scale * self.attn(self.norm1(x), cos, sin)
        return x + self.mlp_scale * self.mlp(self.norm2(x))

    def dual(self, x, dx, cos, sin):
        a, da = self.attn.tangent(self.norm1(x), self.norm1.tangent(x, dx), cos, sin)
        x, dx = x + self.attn_scale * a, dx + self.attn_scale * da
        m, dm = self.mlp.tangent(self.norm2(x), self.norm2.tangent(x, dx))
        return x + self.mlp_scale * m, dx + self.mlp_scale * dm


class FinalLayer(nn.Module):
    def __init__(self, width, channels, patch):
        super().__init__()
        self.norm = RMSNorm(width)
        self.linear = Linear(width, channels * patch * patch, True, 0.0)

    def forward(self, x):
        return self.linear(self.norm(x))

    def tangent(self, x, dx):
        return self.linear.tangent(self.norm.tangent(x, dx))


class MiT(nn.Module):
    def __init__(self, width=192, shared=4, u=4, v=2, classes=20, side=16, channels=4, patch=4):
        super().__init__()
        self.classes, self.side, self.channels, self.patch = classes, side, channels, patch
        self.x_embedder = PatchEmbedder(channels, patch, width)
        self.h_embedder, self.omega_embedder = ScalarEmbedder(width), ScalarEmbedder(width)
        self.cfg_t_start_embedder, self.cfg_t_end_embedder = ScalarEmbedder(width), ScalarEmbedder(width)
        self.y_embedder = LabelEmbedder(classes, width)
        for name, n in PREFIX:
            setattr(self, name, nn.Parameter(torch.randn(n, width) * width ** -0.5))
        self.shared_blocks = nn.ModuleList(Block(width) for _ in range(shared))
        self.u_heads = nn.ModuleList(Block(width) for _ in range(u))
        self.v_heads = nn.ModuleList(Block(width) for _ in range(v))
        self.u_final_layer = FinalLayer(width, channels, patch)
        self.v_final_layer = FinalLayer(width, channels, patch)
        cos, sin = rope_tables(N_PREFIX + (side // patch) ** 2)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def tokens(self, z, h, omega, t_min, t_max, y):
        b = z.shape[0]
        parts = [(self.class_tokens, self.y_embedder(y)), (self.omega_tokens, self.omega_embedder(1 - 1 / omega)),
                 (self.t_min_tokens, self.cfg_t_start_embedder(t_min)), (self.t_max_tokens, self.cfg_t_end_embedder(t_max)),
                 (self.time_tokens, self.h_embedder(h))]
        prefix = [tok[None] + e[:, None] for tok, e in parts]
        return torch.cat(prefix + [self.x_embedder(z).float()], 1)

    def unpatch(self, x):
        """[B, patches, p*p*c] with the channel fastest to [B,c,S,S]."""
        p, g = self.patch, self.side // self.patch
        x = x.float().view(-1, g, g, p, p, self.channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.channels, self.side, self.side)

    def u(self, z, h, omega, t_min, t_max, y):
        x = self.tokens(z, h, omega, t_min, t_max, y)
        for blk in (*self.shared_blocks, *self.u_heads):
            x = blk(x, self.cos, self.sin)
        return self.unpatch(self.u_final_layer(x[:, N_PREFIX:]))

    def v(self, z, h, omega, t_min, t_max, y):
        x = self.tokens(z, h, omega, t_min, t_max, y)
        for blk in (*self.shared_blocks, *self.v_heads):
            x = blk(x, self.cos, self.sin)
        return self.unpatch(self.v_final_layer(x[:, N_PREFIX:]))

    def u_and_v(self, z, h, omega, t_min, t_max, y):
        x = self.tokens(z, h, omega, t_min, t_max, y)
        for blk in self.shared_blocks:
            x = blk(x, self.cos, self.sin)
        xu = xv = x
        for blk in self.u_heads:
            xu = blk(xu, self.cos, self.sin)
        for blk in self.v_heads:
            xv = blk(xv, self.cos, self.sin)
        return (self.unpatch(self.u_final_layer(xu[:, N_PREFIX:])), self.unpatch(self.v_final_layer(xv[:, N_PREFIX:])))

    def dudt(self, z, dz, h, omega, t_min, t_max, y):
        """Derivative of u along (z, h) -> (dz, 1). Call it without gradient."""
        x = self.tokens(z, h, omega, t_min, t_max, y)
        dh = self.h_embedder.tangent(h, torch.ones_like(h))
        dx = torch.cat([torch.zeros_like(x[:, :16]), dh[:, None].expand(-1, 4, -1).float(),
                        self.x_embedder.tangent(dz).float()], 1)
        for blk in (*self.shared_blocks, *self.u_heads):
            x, dx = blk.dual(x, dx, self.cos, self.sin)
        return self.unpatch(self.u_final_layer.tangent(x[:, N_PREFIX:], dx[:, N_PREFIX:]))


def sample(net, noise, labels, steps=1, omega=4.0, t_min=0.0, t_max=1.0):
    """The server's sampler: noise [B,c,S,S] to latents."""
    b = len(noise)
    full = lambda s: torch.full((b,), float(s))
    times = torch.linspace(1, 0, steps + 1)
    z = noise
    for t, r in zip(times[:-1], times[1:]):
        z = z - (t - r) * net.u(z, full(t - r), full(omega), full(t_min), full(t_max), labels)
    return z


def noise_for(seeds, channels=4, side=16):
    """Noise as the server draws it: one CPU generator a picture."""
    return torch.stack([torch.randn(channels, side, side, generator=torch.Generator("cpu").manual_seed(int(s) % 2 ** 32))
                        for s in seeds])

"""A MiT step and a decode of sd-vae in PyTorch against imfd, from the same files and in turn in one run: eager and
compiled, float32 and bfloat16. PyTorch must be installed (it is no requirement of anything else here).

usage: pytorch.py IMFD MODEL.safetensors VAE.safetensors|none [BATCH,... [ROUNDS [PRECISION,...]]]
(imfd synth MiT_B_2 -o B.safetensors; imfd synth sd-vae -o vae.safetensors)"""
import json
import statistics
import subprocess
import sys
import time

import torch
from torch.nn import functional as F

PREFIX = 20  # 8 class, 4 omega, 2 t_min, 2 t_max, 4 time tokens


def read(path):
    """The tensors of a safetensors file, without what only training needs."""
    types = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        data = bytearray(f.read())
    tensors = {}
    for name, t in header.items():
        if name != "__metadata__" and "v_heads" not in name and "v_final" not in name:
            first, last = t["data_offsets"]
            kind = types[t["dtype"]]
            flat = torch.frombuffer(data, dtype=kind, count=(last - first) // kind.itemsize, offset=first)
            tensors[name] = flat.reshape(t["shape"]).float()
    return tensors


def norm(x, weight):
    return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6) * weight).to(x.dtype)


def rotate(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Block(torch.nn.Module):
    def __init__(self, w, at, dtype):
        super().__init__()
        matrix = lambda name: w["%s.%s._flax_linear.weight" % (at, name)].to(dtype)
        self.norm1, self.norm2 = w[at + ".norm1.weight"], w[at + ".norm2.weight"]
        self.q_norm, self.k_norm = w[at + ".attn.q_norm.weight"], w[at + ".attn.k_norm.weight"]
        self.qkv = torch.cat([matrix("attn.%s_proj" % c) for c in "qkv"])
        self.out, self.w2 = matrix("attn.out_proj"), matrix("mlp.w2")
        self.up = torch.cat((matrix("mlp.w1"), matrix("mlp.w3")))
        self.attn_scale, self.mlp_scale = w[at + ".attn_scale"].to(dtype), w[at + ".mlp_scale"].to(dtype)

    def forward(self, x, cos, sin):
        B, T, D = x.shape
        q, k, v = F.linear(norm(x, self.norm1), self.qkv).view(B, T, 3, D // 64, 64).permute(2, 0, 3, 1, 4)
        q, k = rotate(norm(q, self.q_norm), cos, sin), rotate(norm(k, self.k_norm), cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D)
        x = x + F.linear(mixed, self.out) * self.attn_scale
        gate, up = F.linear(norm(x, self.norm2), self.up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.w2) * self.mlp_scale


class Mit(torch.nn.Module):
    def __init__(self, w, dtype):
        super().__init__()
        self.w, self.dtype = {k: v.to(dtype) for k, v in w.items()}, dtype
        count = lambda kind: len({k.split(".")[2] for k in w if k.startswith("net.%s." % kind)})
        names = ["net.shared_blocks.%d" % i for i in range(count("shared_blocks"))]
        names += ["net.u_heads.%d" % i for i in range(count("u_heads"))]
        self.blocks = torch.nn.ModuleList(Block(w, at, dtype) for at in names)
        D, self.C, self.p, _ = w["net.x_embedder.proj.weight"].shape
        self.tokens = torch.cat([self.w["net.%s_tokens" % n].view(-1, D)
                                 for n in ("class", "omega", "t_min", "t_max", "time")])
        self.waves = torch.exp(-9.210340371976184 * torch.arange(128) / 128)
        T = PREFIX + (32 // self.p) ** 2
        angles = torch.arange(T)[:, None] / 10000 ** (torch.arange(0, 64, 2) / 64)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def embed(self, name, value):
        angle = value[:, None] * self.waves
        x = torch.cat((angle.cos(), angle.sin()), -1).to(self.dtype)
        for layer in (0, 2):
            at = "net.%s.mlp.%d._flax_linear." % (name, layer)
            x = F.linear(x, self.w[at + "weight"], self.w[at + "bias"])
            x = F.silu(x) if layer == 0 else x
        return x[:, None]

    def forward(self, z, labels, omega, t_min, t_max, h):
        B, w = z.shape[0], self.w
        patches = F.conv2d(z.to(self.dtype), w["net.x_embedder.proj.weight"], w["net.x_embedder.proj.bias"],
                           stride=self.p).flatten(2).transpose(1, 2)
        parts = [(w["net.y_embedder.embedding_table._flax_embedding.weight"][labels][:, None], 8)]
        for name, value, n in (("omega_embedder", 1 - 1 / omega, 4), ("cfg_t_start_embedder", t_min, 2),
                               ("cfg_t_end_embedder", t_max, 2), ("h_embedder", h, 4)):
            parts.append((self.embed(name, value), n))
        x = torch.cat((torch.cat([e.expand(B, n, -1) for e, n in parts], 1) + self.tokens, patches), 1)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        u = F.linear(norm(x[:, PREFIX:], w["net.u_final_layer.norm.weight"]),
                     w["net.u_final_layer.linear._flax_linear.weight"], w["net.u_final_layer.linear._flax_linear.bias"])
        side = z.shape[2] // self.p
        u = u.view(B, side, side, self.p, self.p, self.C).permute(0, 5, 1, 3, 2, 4).reshape(z.shape)
        return z - h[:, None, None, None] * u.float()


class Decoder(torch.nn.Module):
    def __init__(self, w, dtype):
        super().__init__()
        self.w = {k: v.to(dtype) for k, v in w.items() if not k.startswith(("encoder.", "quant_conv."))}
        self.dtype = dtype
        for name, v in self.w.items():
            if v.dim() == 4:
                self.w[name] = v.contiguous(memory_format=torch.channels_last)

    def conv(self, x, at):
        w = self.w[at + ".weight"]
        return F.conv2d(x, w, self.w[at + ".bias"], padding=w.shape[-1] // 2)

    def norm(self, x, at):
        return F.group_norm(x, 32, self.w[at + ".weight"], self.w[at + ".bias"], 1e-6)

    def resnet(self, x, at):
        y = self.conv(F.silu(self.norm(x, at + ".norm1")), at + ".conv1")
        y = self.conv(F.silu(self.norm(y, at + ".norm2")), at + ".conv2")
        return y + (self.conv(x, at + ".conv_shortcut") if at + ".conv_shortcut.weight" in self.w else x)

    def attention(self, x, at):
        y = self.norm(x, at + ".group_norm").flatten(2).transpose(1, 2)
        q, k, v = (F.linear(y, self.w["%s.%s.weight" % (at, n)], self.w["%s.%s.bias" % (at, n)])
                   for n in ("query", "key", "value"))
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        y = F.linear(y, self.w[at + ".proj_attn.weight"], self.w[at + ".proj_attn.bias"])
        return x + y.transpose(1, 2).reshape(x.shape)

    def forward(self, z):
        x = z.to(self.dtype).contiguous(memory_format=torch.channels_last)
        x = self.conv(self.conv(x, "post_quant_conv"), "decoder.conv_in")
        x = self.resnet(x, "decoder.mid_block.resnets.0")
        x = self.attention(x, "decoder.mid_block.attentions.0")
        x = self.resnet(x, "decoder.mid_block.resnets.1")
        stage = 0
        while "decoder.up_blocks.%d.resnets.0.conv1.weight" % stage in self.w:
            at, i = "decoder.up_blocks.%d" % stage, 0
            while "%s.resnets.%d.conv1.weight" % (at, i) in self.w:
                x, i = self.resnet(x, "%s.resnets.%d" % (at, i)), i + 1
            if at + ".upsamplers.0.conv.weight" in self.w:
                x = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"), at + ".upsamplers.0.conv")
            stage += 1
        return self.conv(F.silu(self.norm(x, "decoder.conv_norm_out")), "decoder.conv_out").float()


def inputs_of(model, batch):
    if isinstance(model, Decoder):
        return (torch.randn(batch, 4, 32, 32),)
    one = torch.ones(batch)
    return (torch.randn(batch, model.C, 32, 32), torch.arange(batch), 8 * one, 0.4 * one, 0.65 * one, one)


def torch_ms(model, batch):
    """Milliseconds a picture."""
    inputs = inputs_of(model, batch)
    run = model.run if hasattr(model, "run") else model
    with torch.inference_mode():
        run(*inputs)
        start = time.perf_counter()
        run(*inputs)
    return 1e3 * (time.perf_counter() - start) / batch


def imfd_ms(imfd, stage, path, decoder, precision, batch):
    command = [imfd, "bench", "--device", "cpu", "--ckpt-path", path, "--decoder", decoder, "--precision", precision,
               "--batch", str(batch), "--rounds", "3", "--threads", str(torch.get_num_threads()), "--json"]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    row = next(r for r in json.loads(out)["rows"] if r["stage"] == stage)
    return 1e3 * row["seconds_per_picture"], row["of_peak"]


def compare(imfd, stage, path, decoder, network, precision, batches, rounds):
    weights = read(decoder if stage == "decode" else path)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    eager, compiled = network(weights, dtype).eval(), network(weights, dtype).eval()
    compiled.run = torch.compile(compiled.forward)
    for batch in batches:
        times = [(imfd_ms(imfd, stage, path, decoder if stage == "decode" else "none", precision, batch),
                  torch_ms(eager, batch), torch_ms(compiled, batch)) for _ in range(rounds)]
        ours, share = (statistics.median(t[0][i] for t in times) for i in (0, 1))
        theirs = [statistics.median(t[i] for t in times) for i in (1, 2)]
        print("%-6s %-9s %5d %8.1f  %6.0f%% %8.1f  %8.1f  %13.2f  %15.2f" % (
            stage, precision, batch, ours, 100 * share, *theirs, theirs[0] / ours, theirs[1] / ours), flush=True)


def main():
    imfd, path, decoder = sys.argv[1:4]
    batches = [int(b) for b in (sys.argv[4] if len(sys.argv) > 4 else "1,4").split(",")]
    rounds = int(sys.argv[5]) if len(sys.argv) > 5 else 3
    print("PyTorch %s, %d threads; ms a picture, medians of %d rounds in turn" % (
        torch.__version__, torch.get_num_threads(), rounds))
    print("stage  precision batch     imfd  of peak    eager  compiled    eager / imfd  compiled / imfd", flush=True)
    for precision in (sys.argv[6] if len(sys.argv) > 6 else "bf16,fp32").split(","):
        compare(imfd, "step", path, decoder, Mit, precision, batches, rounds)
        if decoder != "none":
            compare(imfd, "decode", path, decoder, Decoder, precision, batches, rounds)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes the small .pth files beside this script with torch.save. Run with PyTorch 2.x.

Every tensor's logical elements are base + step * i, exact in every type used, so that the tests
need no second copy of the values: see the table in tests/unit/test_checkpoint_torch.c.
"""
import argparse
import collections
import datetime
import enum
import functools
import os
import sys
import types
import zipfile

import numpy
import torch

HERE = os.path.dirname(os.path.abspath(__file__))


def ramp(shape, base=-1.0, step=0.25, dtype=torch.float32):
    n = int(numpy.prod(shape)) if shape else 1
    return (base + step * torch.arange(n, dtype=torch.float64)).reshape(shape).to(dtype)


def state(dtype=torch.float32):
    d = collections.OrderedDict()
    d["net.plain"] = ramp((4, 6), dtype=dtype)
    d["net.transposed"] = ramp((5, 3), dtype=dtype).t().contiguous().t()
    permuted = ramp((2, 3, 4), dtype=dtype)
    d["net.permuted"] = permuted.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    big = torch.zeros(7, 9, dtype=dtype)
    big[2:5, 1::2] = ramp((3, 4), dtype=dtype)
    d["net.sliced"] = big[2:5, 1::2]
    shared = ramp((9,), dtype=dtype)
    d["net.shared_a"] = shared[0:6]
    d["net.shared_b"] = shared[3:9]
    d["net.expanded"] = torch.full((1,), 2.5, dtype=dtype).expand(5)
    d["net.scalar"] = torch.tensor(3.5, dtype=dtype)
    d["net.empty"] = torch.zeros(0, 3, dtype=dtype)
    d["net.num_batches_tracked"] = torch.tensor(7)
    return d


def training(sd):
    """What training scripts save: the weights among everything else."""
    w = torch.nn.Parameter(torch.ones(3))
    opt = torch.optim.Adam([w])
    w.sum().backward()
    opt.step()
    return {"epoch": 3, "step": torch.tensor(12), "args": argparse.Namespace(lr=1e-3, tags=["a", ("b", None)]),
            "optimizer": opt.state_dict(), "best": numpy.float64(3.25), "done": True, "big": 1 << 80,
            "history": [0.5, -1, "x" * 300, b"bytes", {1, 2}], "loop": torch.Size([1, 2]),
            "ema": collections.OrderedDict((k, v + 1 if v.is_floating_point() else v) for k, v in sd.items()),
            "model": sd}


def save(name, obj, **kw):
    torch.save(obj, os.path.join(HERE, name), **kw)


save("zip_f32.pth", state())
save("zip_f16.pth", state(torch.float16))
save("zip_bf16.pth", state(torch.bfloat16))
save("zip_f64.pth", state(torch.float64))
save("zip_protocol4.pth", state(), pickle_protocol=4)
save("zip_training.pth", training(state()))
save("zip_state_dict.pth", {"state_dict": state()})
save("zip_ema_deep.pth", {"ema": {"params": state(), "decay": 0.999}, "epoch": 1})
save("zip_sole.pth", {"weights_of_mine": state(), "epoch": 1})
save("zip_no_net.pth", {k[len("net."):]: v for k, v in state().items()})
module = torch.nn.Module()
module.plain = torch.nn.Parameter(ramp((4, 6)))
save("zip_parameter.pth", {"net.plain": module.plain, "net.float8": ramp((4,)).to(torch.float8_e4m3fn),
                           "net.uint16": torch.tensor([1, 2], dtype=torch.uint16)})
save("legacy_f32.pth", state(), _use_new_zipfile_serialization=False)
save("legacy_bf16.pth", state(torch.bfloat16), _use_new_zipfile_serialization=False)
save("legacy_training.pth", training(state()), _use_new_zipfile_serialization=False)


def foreign(module, name, base=object):
    """A class that only the writer knows."""
    parts = module.split(".")
    for i in range(len(parts)):
        sys.modules.setdefault(".".join(parts[:i + 1]), types.ModuleType(".".join(parts[:i + 1])))
    cls = type(name, (base,), {"__module__": module, "__qualname__": name})
    setattr(sys.modules[module], name, cls)
    return cls


def beside(sd):
    """Weights beside everything that nobody here needs: it is skipped by name and never built."""
    config, attributes = foreign("omegaconf.dictconfig", "DictConfig")(), foreign("easydict", "EasyDict", dict)()
    config.__dict__.update(_content={"lr": 1})
    attributes["lr"] = 1
    colour = enum.Enum("Colour", ["RED"], module="mylib.colours")
    sys.modules["mylib"], sys.modules["mylib.colours"] = types.ModuleType("mylib"), types.ModuleType("mylib.colours")
    sys.modules["mylib.colours"].Colour = colour
    return {"model": sd, "config": config, "attributes": attributes, "colour": colour.RED,
            "date": datetime.datetime(2026, 1, 1), "losses": collections.deque([1.0, 2.0], maxlen=10),
            "function": functools.partial(int, base=2), "space": types.SimpleNamespace(a=1),
            "complex": 1 + 2j, "bytes": bytearray(b"x"), "frozen": frozenset([1]), "range": range(3),
            "dtype": torch.complex128, "layout": torch.strided, "counter": collections.Counter("aab"),
            "conj": torch.ones(3, dtype=torch.complex64).conj(), "deep": torch.ones((1,) * 9),
            "storage": torch.ones(3).untyped_storage(), "float64": numpy.float64(1),
            "array": numpy.arange(3), "generator": numpy.random.default_rng(1)}


def tensors_beside(sd):
    """Tensors of kinds that no model here is made of."""
    return {"model": sd, "sparse": torch.eye(3).to_sparse(), "csr": torch.eye(3).to_sparse_csr(),
            "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "meta": torch.empty(3, device="meta"),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "float4": torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            "float8": torch.ones(3).to(torch.float8_e8m0fnu)}


def negative(sd):
    """Every floating tensor as torch's negative view of its opposite."""
    return collections.OrderedDict((k, torch._neg_view(-v) if v.is_floating_point() else v) for k, v in sd.items())


save("zip_beside.pth", beside(state()))
save("zip_tensors_beside.pth", tensors_beside(state()))
save("zip_negative.pth", negative(state()))
save("zip_negative_bf16.pth", negative(state(torch.bfloat16)))
save("legacy_beside.pth", beside(state()), _use_new_zipfile_serialization=False)
save("legacy_negative.pth", negative(state()), _use_new_zipfile_serialization=False)
subclass = foreign("mylib.tensors", "Sub", torch.Tensor)
save("zip_subclass.pth", collections.OrderedDict((k, v.as_subclass(subclass)) for k, v in state().items()))
# Unpacked, and packed again by a zip tool that compresses; and with a line break behind it.
with zipfile.ZipFile(os.path.join(HERE, "zip_f32.pth")) as z, \
        zipfile.ZipFile(os.path.join(HERE, "zip_deflated.pth"), "w", zipfile.ZIP_DEFLATED) as packed:
    for entry in z.infolist():
        packed.writestr(zipfile.ZipInfo(entry.filename), z.read(entry.filename), zipfile.ZIP_DEFLATED)
with open(os.path.join(HERE, "zip_f32.pth"), "rb") as f, open(os.path.join(HERE, "zip_trailing.pth"), "wb") as g:
    g.write(f.read() + b"\n")
save("refused_module.pth", {"model": torch.nn.Linear(2, 2)})
# What tells TorchScript from a state dict is constants.pkl.
save("refused_script.pth", state())
with zipfile.ZipFile(os.path.join(HERE, "refused_script.pth"), "a") as z:
    z.writestr(zipfile.ZipInfo("refused_script/constants.pkl"), b"\x80\x02).")

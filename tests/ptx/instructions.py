"""What each PTX instruction does, by the PTX ISA. decode() makes a function of an instruction once; it then
runs for all active threads at a time.

Approximate instructions (ex2.approx, rcp.approx, rsqrt.approx) are computed exactly; mma multiplies in
float64 and rounds once. Tests allow for both.
"""
import re

import numpy as np

from ptx import Fault

TYPES = {"u8": np.uint8, "b8": np.uint8, "s8": np.int8, "u16": np.uint16, "b16": np.uint16, "s16": np.int16,
         "u32": np.uint32, "b32": np.uint32, "s32": np.int32, "f32": np.float32,
         "u64": np.uint64, "b64": np.uint64, "s64": np.int64, "f64": np.float64}
WIDER = {"u16": np.uint32, "s16": np.int32, "u32": np.uint64, "s32": np.int64}
SMALLEST_NORMAL = np.float32(2.0 ** -126)
VECTOR = {"v2": 2, "v4": 4}
PLAIN, BRANCH, BARRIER, RETURN, WAIT = range(5)
PARAMETERS = 0x7E0000000000  # generic addresses of a kernel's parameters


def bits(size):
    return np.dtype("u%d" % size)


def flush(x):
    """.ftz: denormals become zeros of their sign."""
    return np.where(np.abs(x) < SMALLEST_NORMAL, np.copysign(np.float32(0), x), x)


def to_bf16(x):
    """float32 to the bits of the nearest bfloat16, ties to even."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (u + 0x7FFF + (u >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def from_bf16(u):
    return (u.astype(np.uint32) << np.uint32(16)).view(np.float32)


def halves(words):
    """The two bfloat16 of 32-bit words, low one first, as float32."""
    return (words << np.uint32(16)).view(np.float32), (words & np.uint32(0xFFFF0000)).view(np.float32)


# ---- operands ----

def constant(machine, token, kind):
    """The value of an immediate or a symbol, or None."""
    number = re.match(r"0[fF]([0-9a-fA-F]{8})$", token)
    if number:
        return np.array([int(number.group(1), 16)], np.uint32).view(kind if kind == np.float32 else np.uint32)[0]
    number = re.match(r"0[dD]([0-9a-fA-F]{16})$", token)
    if number:
        return np.array([int(number.group(1), 16)], np.uint64).view(np.float64)[0]
    size = np.dtype(kind).itemsize
    if re.match(r"-?(0x[0-9a-fA-F]+|\d+)U?$", token):
        value = int(token.rstrip("U"), 0)
    elif token == "imf_dynamic_shared":
        value = 0x400 + machine.dynamic_at
    elif token in machine.kernel.shared:
        value = 0x400 + machine.kernel.shared[token]
    elif token in machine.tables:
        value = machine.tables[token]
    elif token in machine.kernel.parameters:
        value = PARAMETERS + machine.kernel.parameters[token][0]
    elif token.startswith("__local_depot"):
        value = 0
    else:
        return None
    return np.array([value & (1 << 8 * size) - 1], bits(size)).view(kind)[0]


def source(machine, token, kind):
    """A function that gives the operand's value for every thread, as `kind` ("u32", "pred")."""
    if kind == "pred":
        if not token.isdigit():
            return lambda: machine.register(token)
        return lambda: np.full(machine.threads, bool(int(token)))
    kind = TYPES[kind]
    size = np.dtype(kind).itemsize
    if token in machine.special:
        return lambda: np.broadcast_to(machine.special[token], machine.threads).astype(bits(size)).view(kind)
    if token.startswith("%"):
        def read():
            r = machine.register(token)
            return r.view(kind) if r.dtype.itemsize == size else r.astype(bits(size)).view(kind)
        return read
    value = constant(machine, token, kind)
    if value is None:
        raise Fault("operand %s" % token)
    filled = np.full(machine.threads, value)
    return lambda: filled


def address(machine, token):
    """`[%rd1+16]` as a function that gives byte addresses."""
    m = re.match(r"\[\s*([^\]+\s]+)\s*(?:\+\s*(-?\w+))?\s*\]$", token)
    offset = int(m.group(2), 0) if m.group(2) else 0
    base = source(machine, m.group(1), "u64" if m.group(1).startswith(("%rd", "%SP")) else "u32")
    return lambda: base().astype(np.int64) + offset


def registers(token):
    return [r.strip() for r in token.strip("{}").split(",")]


# ---- the table ----

BUILDERS = {}
WAITS = set()  # names of instructions that return the threads that have to stay


def instruction(*names):
    def add(builder):
        for name in names:
            BUILDERS[name] = builder
        return builder
    return add


def decode(machine, i):
    """(kind, function): see Machine.run_straight."""
    if i.guard:
        negated, name = i.guard
        def chosen(active):
            p = machine.register(name)
            return active & (~p if negated else p)
    else:
        chosen = np.copy
    if i.name == "bra":
        target = machine.kernel.labels[i.operands[0]]
        return BRANCH, lambda active: (chosen(active), target)
    if i.name in ("ret", "exit"):
        return RETURN, chosen
    if i.name in ("bar", "barrier") and "warp" not in i.flags and "cluster" not in i.flags:
        if i.guard:
            raise Fault("a guarded barrier")
        return BARRIER, [int(token) for token in i.operands] + [machine.block_threads] * (len(i.operands) == 1)
    name = i.name
    if name in ("cp", "mbarrier", "barrier", "wgmma"):  # the names of families
        name = next((key for key in BUILDERS if key.split(".")[0] == name and set(key.split(".")[1:]) <= {*i.flags}),
                    name)
    if name not in BUILDERS:
        raise Fault("unknown instruction: " + i.text)
    act = BUILDERS[name](machine, i)
    if name in WAITS:
        if i.guard:
            raise Fault("a guarded wait")
        return WAIT, act
    if not i.guard:
        return PLAIN, act

    def guarded(active, everybody):
        some = chosen(active)
        if some.any():
            act(some, everybody and some.all())
    return PLAIN, guarded


def elementwise(machine, i, function, kinds=None):
    """operands[0] = function(operands[1], operands[2], ...), each of the instruction's type."""
    kinds = kinds or [i.type] * (len(i.operands) - 1)
    inputs = [source(machine, token, kind) for token, kind in zip(i.operands[1:], kinds)]
    result = i.operands[0]
    return lambda active, everybody: machine.put(result, active, everybody, function(*[x() for x in inputs]))


@instruction("nop", "bar")
def nop(machine, i):
    return lambda active, everybody: None


@instruction("mov", "cvta")
def mov(machine, i):
    kind = "f32" if i.type == "b32" and i.operands[1][:2] in ("0f", "0F") else i.type
    return elementwise(machine, i, lambda x: x, [kind])


SIMPLE = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
    "neg": np.negative, "abs": np.abs, "copysign": lambda a, b: np.copysign(b, a),
    "sqrt": np.sqrt, "rsqrt": lambda a: (1 / np.sqrt(a.astype(np.float64))).astype(np.float32),
}


@instruction(*SIMPLE)
def simple(machine, i):
    return elementwise(machine, i, SIMPLE[i.name])


@instruction("min", "max")
def min_max(machine, i):
    if i.type == "f32":  # the number where one of two is NaN
        return elementwise(machine, i, np.fmin if i.name == "min" else np.fmax)
    return elementwise(machine, i, np.minimum if i.name == "min" else np.maximum)


@instruction("mul")
def mul(machine, i):
    if "wide" in i.flags:
        wide = WIDER[i.type]
        return elementwise(machine, i, lambda a, b: a.astype(wide) * b.astype(wide))
    if "hi" in i.flags:
        wide, half = WIDER[i.type], TYPES[i.type]
        shift = wide(8 * np.dtype(half).itemsize)
        return elementwise(machine, i, lambda a, b: (a.astype(wide) * b.astype(wide) >> shift).astype(half))
    return elementwise(machine, i, lambda a, b: a * b)


@instruction("mad")
def mad(machine, i):
    if "wide" not in i.flags:
        return elementwise(machine, i, lambda a, b, c: a * b + c)
    wide = WIDER[i.type]
    kind = i.type[0] + str(8 * np.dtype(wide).itemsize)
    return elementwise(machine, i, lambda a, b, c: a.astype(wide) * b.astype(wide) + c, [i.type, i.type, kind])


@instruction("fma")
def fma(machine, i):
    if i.type != "f32":
        raise Fault("unknown instruction: " + i.text)

    def nearest(a, b, c):
        return (a.astype(np.float64) * b + c).astype(np.float32)

    def down(a, b, c):
        exact = a.astype(np.float64) * b + c
        near = exact.astype(np.float32)
        return np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)
    return elementwise(machine, i, down if "rm" in i.flags else nearest)


@instruction("div", "rem")
def div_rem(machine, i):
    if i.type == "f32":
        return elementwise(machine, i, lambda a, b: a / b)
    signed, kind, remainder = i.type[0] == "s", TYPES[i.type], i.name == "rem"

    def divide(a, b):
        b = np.where(b == 0, 1, b)
        if not signed:
            return (a % b if remainder else a // b).astype(kind)
        if remainder:
            return np.fmod(a, b).astype(kind)
        return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(kind)
    return elementwise(machine, i, divide)


@instruction("shl", "shr")
def shift(machine, i):
    kind = TYPES[i.type]
    width = 8 * np.dtype(kind).itemsize
    left = i.name == "shl"

    def move(a, n):
        clamped = np.minimum(n, width - 1).astype(kind)
        moved = a << clamped if left else a >> clamped
        return moved if i.type[0] == "s" and not left else np.where(n < width, moved, 0).astype(kind)
    return elementwise(machine, i, move, [i.type, "u32"])


@instruction("bfi")
def bfi(machine, i):
    kind = TYPES[i.type]

    def insert(a, b, at, length):
        mask = ((kind(1) << length.astype(kind)) - kind(1)) << at.astype(kind)
        return (b & ~mask) | (a << at.astype(kind) & mask)
    return elementwise(machine, i, insert, [i.type, i.type, "u32", "u32"])


COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
           "ge": np.greater_equal}


@instruction("setp")
def setp(machine, i):
    name = i.flags[0]
    if name in COMPARE:
        compare = COMPARE[name]
    else:  # ltu and the like: true for NaN as well
        ordered = COMPARE[name[:2]]
        compare = lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)
    return elementwise(machine, i, compare)


@instruction("selp")
def selp(machine, i):
    kind = "f32" if any(t[:2] in ("0f", "0F") for t in i.operands[1:3]) else i.type
    return elementwise(machine, i, lambda a, b, p: np.where(p, a, b), [kind, kind, "pred"])


@instruction("ex2", "rcp")
def approximate(machine, i):
    exact = np.exp2 if i.name == "ex2" else np.reciprocal
    ftz = "ftz" in i.flags

    def compute(a):
        r = exact((flush(a) if ftz else a).astype(np.float64)).astype(np.float32)
        return flush(r) if ftz else r
    return elementwise(machine, i, compute)


@instruction("cvt")
def cvt(machine, i):
    if "bf16x2" in i.flags:  # cvt.rn.bf16x2.f32 d, high, low
        pack = lambda high, low: to_bf16(high).astype(np.uint32) << np.uint32(16) | to_bf16(low)
        return elementwise(machine, i, pack)
    to, kind = TYPES[i.flags[-2]], TYPES[i.type]

    def float_to_float(x):
        if "rni" in i.flags:
            x = np.rint(x)
        if "sat" in i.flags:
            x = np.clip(np.where(np.isnan(x), 0, x), 0, 1)
        return x.astype(to)

    def float_to_integer(x):
        x = (np.rint if "rni" in i.flags else np.trunc)(np.where(np.isnan(x), 0, x).astype(np.float64))
        return np.clip(x, np.iinfo(to).min, np.iinfo(to).max).astype(to)
    if kind in (np.float32, np.float64):
        convert = float_to_float if to in (np.float32, np.float64) else float_to_integer
    else:
        convert = lambda x: x.astype(to)
    return elementwise(machine, i, convert)


# ---- memory ----

@instruction("ld", "st")
def load_store(machine, i):
    space = i.flags[0]
    kind = TYPES[i.type]
    count = next((VECTOR[f] for f in i.flags if f in VECTOR), 1)
    size = count * np.dtype(kind).itemsize
    loads = i.name == "ld"
    where, values = (i.operands[1], i.operands[0]) if loads else i.operands
    names = registers(values)
    if space == "param":
        name, _, offset = where.strip("[]").partition("+")
        at = machine.kernel.parameters[name][0] + int(offset or "0", 0)

        def parameter(active, everybody):
            value = np.frombuffer(machine.parameters[at:at + size], kind)
            for j, r in enumerate(names):
                machine.put(r, active, everybody, np.full(machine.threads, value[j]))
        return parameter
    addresses = address(machine, where)
    inputs = [] if loads else [source(machine, r, i.type) for r in names]

    def find(active):
        """The memory's bytes and the indices in them of every active thread's access."""
        threads = np.nonzero(active)[0]
        at = addresses()[active]
        if space == "global":
            return machine.memory.bytes, machine.memory.indices(at, size, not loads), threads
        if space == "shared":
            index = machine.shared.indices(at, machine.home[threads], size)
            (machine.shared.read if loads else machine.shared.write)(index, threads)
            return machine.shared.bytes, index, threads
        return machine.local, (threads[:, None], at[:, None] + np.arange(size)), threads

    def load(active, everybody):
        memory, index, threads = find(active)
        value = np.ascontiguousarray(memory[index]).view(kind)
        for j, r in enumerate(names):
            out = np.zeros(machine.threads, kind)
            out[threads] = value[:, j]
            machine.put(r, active, everybody, out)

    def store(active, everybody):
        memory, index, threads = find(active)
        value = np.stack([x()[active] for x in inputs], 1)
        if space == "global":
            if len(np.unique(index)) != index.size:
                raise Fault("two threads write one global byte in one instruction")
            machine.memory.written[index] = True
        memory[index] = np.ascontiguousarray(value).view(np.uint8).reshape(len(threads), size)
    return load if loads else store


@instruction("cp.async.commit_group")
def cp_commit(machine, i):
    def commit(active, everybody):
        machine.committed[active] += 1
    return commit


@instruction("cp.async.wait_group")
def cp_wait(machine, i):
    pending = int(i.operands[0])
    return lambda active, everybody: machine.wait_copies(active, pending)


@instruction("cp.async.shared.global")
def cp_async(machine, i):
    to, origin, size = address(machine, i.operands[0]), address(machine, i.operands[1]), int(i.operands[2])
    given = source(machine, i.operands[3], "u32") if len(i.operands) > 3 else None

    def start(active, everybody):
        count = given()[active].astype(np.int64) if given else np.full(active.sum(), size)
        index = machine.shared.indices(to()[active], machine.home[active], size)
        at = origin()[active]
        if not np.isin(count, (0, size)).all() or (at % size).any():
            raise Fault("cp.async of part of its bytes, or from a misaligned address")
        from_ = np.full(index.shape, -1, np.int64)
        if count.any():
            from_[count > 0] = machine.memory.indices(at[count > 0], size, False)
        machine.start_copy(index, from_, active)
    return start


# ---- whole warps ----

def whole_warps(machine, active, what):
    """Numbers of the active warps; each must be there with all its threads."""
    lanes = active.reshape(machine.warps, 32)
    if (lanes.any(1) != lanes.all(1)).any():
        raise Fault("%s by a part of a warp" % what)
    return np.nonzero(lanes.all(1))[0]


@instruction("shfl")
def shfl(machine, i):
    if i.flags[:2] != ["sync", "bfly"]:
        raise Fault("unknown instruction: " + i.text)
    result = i.operands[0].split("|")[0]
    value, lane, clamp, mask = (source(machine, token, "u32") for token in i.operands[1:5])

    def shuffle(active, everybody):
        whole_warps(machine, active, "shfl.sync")
        if (mask()[active] != 0xFFFFFFFF).any() or (clamp()[active] != 31).any():
            raise Fault("shfl.sync over a part of a warp")
        machine.put(result, active, everybody, value()[np.arange(machine.threads) ^ lane()])
    return shuffle


@instruction("ldmatrix")
def ldmatrix(machine, i):
    count = next(int(f[1:]) for f in i.flags if f in ("x1", "x2", "x4"))
    transposed = "trans" in i.flags
    names, addresses = registers(i.operands[0]), address(machine, i.operands[1])

    def load(active, everybody):
        at, out = addresses(), np.zeros((count, machine.threads), np.uint32)
        for warp in whole_warps(machine, active, "ldmatrix"):
            rows = np.arange(32 * warp, 32 * warp + 8 * count)  # these threads' addresses are rows
            index = machine.shared.indices(at[rows], machine.home[rows], 16)
            tiles = np.ascontiguousarray(machine.shared.read(index, rows)).view(np.uint16).reshape(count, 8, 8)
            if transposed:
                tiles = np.ascontiguousarray(tiles.transpose(0, 2, 1))
            out[:, 32 * warp:32 * warp + 32] = tiles.view(np.uint32).reshape(count, 32)
        for j, r in enumerate(names):
            machine.put(r, active, everybody, out[j])
    return load


@instruction("mma")
def mma(machine, i):
    if "m16n8k16" not in i.flags or i.flags[-4:] != ["f32", "bf16", "bf16", "f32"]:
        raise Fault("unknown instruction: " + i.text)
    d, a, b, c = (registers(token) for token in i.operands)
    lane = np.arange(32)
    group, pair = lane // 4, lane % 4 * 2  # the fragments' formulas in the PTX ISA

    def multiply(active, everybody):
        whole_warps(machine, active, "mma.sync")
        word = lambda name: machine.register(name).reshape(machine.warps, 32)
        A = np.empty((machine.warps, 16, 16))
        B, C = np.empty((machine.warps, 16, 8)), np.empty((machine.warps, 16, 8))
        for j in range(4):
            row, column = group + j % 2 * 8, pair + j // 2 * 8
            A[:, row, column], A[:, row, column + 1] = halves(word(a[j]))
            C[:, group + j // 2 * 8, pair + j % 2] = word(c[j]).view(np.float32)
        for j in range(2):
            B[:, pair + 8 * j, group], B[:, pair + 8 * j + 1, group] = halves(word(b[j]))
        D = (A @ B + C).astype(np.float32)
        for j in range(4):
            machine.put(d[j], active, everybody, D[:, group + j // 2 * 8, pair + j % 2].reshape(-1))
    return multiply

"""What sm_90 adds, by the PTX ISA: clusters, mbarriers, copies of tensors (TMA) and products of warpgroups (wgmma).

A copy or product that has not been waited for has not happened: its destination holds NaNs, its operands must
not be written. A warp may use what a copy brought only once it has itself seen the mbarrier's phase end, and
every warp of a warpgroup has its own quarter of a product: nothing says that the four run together.
"""
import re

import numpy as np

from instructions import PARAMETERS, WAITS, address, from_bf16, instruction, registers, source, whole_warps
from ptx import Fault

CHUNK = 16          # bytes that swizzling keeps together
ROW = 128           # bytes of a row of a swizzled tile
FILE = 1 << 16      # registers of an SM
DONE, TX_LIMIT = 3, 1 << 20
ALL_TRUE = np.uint64(0x0101010101010101)
SHARED_BASE = 0x400


class TensorMap:
    """The parameters of a CUtensorMap, elements of 16 bits. Tiles: `box`, the size of a copy. im2col: dimensions
    (C, W, H, N), corners (W, H) of the box in which the pixels of a copy start, channels and pixels of a copy."""

    def __init__(self, address, dims, strides, box=None, lower=None, upper=None, channels=0, pixels=0, swizzle=128):
        if address % 16 or any(stride % 16 for stride in strides) or len(strides) != len(dims) - 1:
            raise Fault("a tensor map with misaligned rows")
        self.address, self.dims, self.strides, self.box = address, dims, (2, *strides), box
        self.lower, self.upper, self.channels, self.pixels, self.swizzle = lower, upper, channels, pixels, swizzle
        if swizzle == 128 and 2 * (channels if box is None else box[0]) > ROW:
            raise Fault("a swizzled box that is wider than its rows")

    def elements(self, coordinates, offsets):
        """Global addresses of the elements (rows, elements of a row) as they lie in shared memory; -1: a zero."""
        if offsets is None:
            if self.box is None:
                raise Fault("a copy of a tile by a map for im2col")
            at = np.meshgrid(*[c + np.arange(n) for c, n in zip(coordinates[::-1], self.box[::-1])], indexing="ij")
            at = at[::-1]
        else:
            if self.box is not None:
                raise Fault("a copy in im2col mode by a map for tiles")
            c, w, h, n = coordinates
            wide, high = (size + upper - lower for size, upper, lower in zip(self.dims[1:3], self.upper, self.lower))
            w, h = w - self.lower[0], h - self.lower[1]
            if not (0 <= w < wide and 0 <= h < high):
                raise Fault("a copy that starts outside the bounding box")
            pixel = ((n * high + h) * wide + w + np.arange(self.pixels))[:, None]
            at = [c + np.arange(self.channels)[None], pixel % wide + self.lower[0] + offsets[0],
                  pixel // wide % high + self.lower[1] + offsets[1], pixel // wide // high]
        inside = np.bitwise_and.reduce(np.broadcast_arrays(*[(0 <= x) & (x < n) for x, n in zip(at, self.dims)]))
        where = self.address + sum(x * stride for x, stride in zip(at, self.strides))
        return np.where(inside, where, -1).reshape(-1, inside.shape[-1])


class Mbarrier:
    def __init__(self, number, count, thread, hopper):
        self.number, self.count, self.pending, self.tx, self.completed = number, count, count, 0, 0
        self.maker, self.fenced = thread, False
        self.made = hopper.machine.shared.epoch, hopper.phases


class Flight:
    """A copy into the shared memory of one block that has not landed."""

    def __init__(self, where, data, barrier, block):
        self.where, self.data, self.barrier, self.block = where, data, barrier, block


class Operand:
    """Rows of an operand in shared memory, as they are until something there is written."""

    def __init__(self, shared, hopper, chunks):
        words = lambda a: a.view(np.uint64).reshape(len(a) // CHUNK, -1)[chunks]
        if words(shared.in_flight).any():
            raise Fault("a product of what a copy is still writing")
        if (words(shared.written) != ALL_TRUE).any():
            raise Fault("a product of what was never written")
        if words(shared.generic).any():
            raise Fault("a product of what threads wrote and did not fence")
        self.chunks = chunks
        self.phases = {*zip(hopper.by_barrier[chunks].ravel().tolist(), hopper.by_phase[chunks].ravel().tolist())}
        self.epoch = shared.write_epoch.reshape(-1, CHUNK)[chunks].max()  # -1: copies wrote it all
        writers = shared.writer.reshape(-1, CHUNK)[chunks] // 32
        self.writers = {*writers[writers >= 0].tolist()} if self.epoch >= 0 else set()
        self.values = from_bf16(words(shared.bytes).reshape(len(chunks), -1).view(np.uint16)).astype(np.float64)


class Hopper:
    """The asynchronous state of a cluster."""

    def __init__(self, machine):
        self.machine = machine
        chunks = len(machine.shared.bytes) // CHUNK
        self.barriers, self.flights = {}, []
        self.by_barrier = np.zeros(chunks, np.int32)  # whose phase brought it; 0: none
        self.by_phase = np.zeros(chunks, np.int32)
        self.observed = np.zeros((machine.warps, 64), np.int32)
        self.arrived, self.passed = np.zeros(machine.threads, np.int32), np.zeros(machine.threads, np.int32)
        self.phases = 0  # of the cluster's barrier
        allowed = FILE // machine.block_threads // 8 * 8  # registers of a thread at the start
        self.registers, self.free = np.full(machine.warps, allowed), np.zeros(machine.blocks, np.int32)
        self.multiplies = any(i.name == "wgmma" for i in machine.kernel.code)
        self.fences = np.zeros(machine.warps, np.int32)
        self.writes = {}                                    # {register: fences of each warp when it wrote it}
        self.committed = np.zeros(machine.warps, np.int32)
        self.operands = [[] for _ in range(machine.warps)]  # (group, chunks) of products under way
        self.known = {}                                     # operands, until anything is written
        self.sums = [{} for _ in range(machine.warps)]      # {registers: (group, values)}

    def end(self):
        if self.flights:
            raise Fault("the kernel ended with a copy in flight")
        if any(self.operands):
            raise Fault("the kernel ended with a product that nobody waited for")
        if any(b.tx for b in self.barriers.values()):
            raise Fault("the kernel ended with an mbarrier that expects bytes")

    # ---- the cluster's barrier ----

    def arrive_cluster(self, active):
        if (self.arrived[active] > self.passed[active]).any():
            raise Fault("two arrivals at the cluster's barrier without a wait")
        self.arrived[active] += 1
        self.finish_cluster()

    def finish_cluster(self):
        missing = (self.arrived <= self.phases) & (self.machine.state != DONE)
        if missing.any() or not (self.arrived > self.phases).any():
            return False
        self.phases += 1
        self.machine.shared.epoch += 1
        self.machine.wake()
        return True

    def wait_cluster(self, active):
        if (self.arrived[active] <= self.passed[active]).any():
            raise Fault("a wait at the cluster's barrier without an arrival")
        stay = active & (self.passed >= self.phases)
        self.passed[active & ~stay] += 1
        return stay

    # ---- registers ----

    def set_registers(self, warp, count):
        """False while the block has not so many."""
        block = self.machine.home[32 * warp]
        more = 32 * (count - self.registers[warp])
        if more > self.free[block]:
            return False
        self.free[block] -= more
        self.registers[warp] = count
        self.machine.wake()
        return True

    # ---- mbarriers ----

    def make_barrier(self, at, count, thread):
        if at % 8 or not 0 < count < TX_LIMIT:
            raise Fault("mbarrier.init: misaligned, or a count out of range")
        self.barriers[at] = Mbarrier(len(self.barriers) + 1, count, thread, self)

    def barrier_at(self, at, thread=None, block=None):
        """For a thread, or for a copy that a thread of `block` started."""
        b = self.barriers.get(int(at))
        if b is None:
            raise Fault("there is no mbarrier")
        home = self.machine.home
        block = home[thread] if block is None else block
        if home[b.maker] != block and not (b.fenced and self.phases > b.made[1]):
            raise Fault("an mbarrier of another block that may not have been initialised")
        if thread is None and not b.fenced:
            raise Fault("an mbarrier whose initialisation was not fenced for copies")
        if thread is not None and thread != b.maker and self.machine.shared.epoch <= b.made[0]:
            raise Fault("an mbarrier that may not have been initialised")
        return b

    def count(self, b, arrivals=0, tx=0):
        b.pending -= arrivals
        b.tx += tx
        if b.pending < 0 or abs(b.tx) >= TX_LIMIT:
            raise Fault("an mbarrier with too many arrivals or bytes")
        if b.pending == 0 and b.tx == 0:
            b.completed += 1
            b.pending = b.count
            self.machine.wake()

    # ---- copies ----

    def start_copy(self, where, data, barrier, block):
        """`where`: chunks of shared memory; `data`: what will stand there."""
        shared = self.machine.shared
        if shared.in_flight.reshape(-1, CHUNK)[where].any():
            raise Fault("a copy to where another is in flight")
        if shared.reading[where].any():
            raise Fault("a copy to where a product may still read")
        shared.bytes.reshape(-1, CHUNK)[where] = 0xFF
        shared.in_flight.reshape(-1, CHUNK)[where] += 1
        self.known.clear()
        flight = Flight(where, data, barrier, block)
        if self.machine.late:
            self.flights.append(flight)
        else:
            self.land(flight)

    def land_one(self):
        """Nobody can run: something asynchronous happens. False when there is nothing."""
        if self.finish_cluster():
            return True
        if not self.flights:
            return False
        which = {"block": 0, "first": -1}.get(self.machine.order)
        self.land(self.flights.pop(self.machine.random.integers(len(self.flights)) if which is None else which))
        return True

    def land(self, flight):
        machine, shared = self.machine, self.machine.shared
        self.known.clear()
        if (machine.state[machine.home == flight.block] == DONE).all():
            raise Fault("a copy to a block that has ended")
        shared.bytes.reshape(-1, CHUNK)[flight.where] = flight.data
        shared.in_flight.reshape(-1, CHUNK)[flight.where] -= 1
        shared.written.reshape(-1, CHUNK)[flight.where] = True
        shared.generic.reshape(-1, CHUNK)[flight.where] = False
        shared.write_epoch.reshape(-1, CHUNK)[flight.where] = -1
        self.by_barrier[flight.where] = flight.barrier.number
        self.by_phase[flight.where] = flight.barrier.completed + 1
        self.count(flight.barrier, tx=-flight.data.size)

    # ---- products ----

    def note_write(self, name, active):
        if self.multiplies:
            stamps = self.writes.get(name)
            if stamps is None:
                stamps = self.writes[name] = np.full(self.machine.warps, -1, np.int32)
            warps = active.reshape(-1, 32).any(1)
            stamps[warps] = self.fences[warps]

    def rows(self, descriptor, count, block):
        """Chunks (row, 2) of rows of a K-major operand of 16 columns."""
        start, stride = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
        if descriptor >> 62 != 1:
            raise Fault("operands without 128-byte swizzling are not known here")
        if (descriptor >> 49 & 7) != (start >> 7 & 7):
            raise Fault("a base offset that is not the start's")
        row = np.arange(count)
        at = (start + row // 8 * stride + row % 8 * ROW)[:, None] + np.arange(0, 2 * CHUNK, CHUNK)
        at = (at ^ (at >> 7 & 7) << 4) - SHARED_BASE
        if (at < 0).any() or (at >= self.machine.shared.of_block).any():
            raise Fault("an operand outside the block's shared memory")
        return (block * self.machine.shared.of_block + at) // CHUNK

    def operand(self, descriptor, count, block, warp, own):
        """Values of the rows `own`, of which the warp makes use."""
        key = descriptor, count, block
        operand = self.known.get(key)
        if operand is None:
            operand = self.known[key] = Operand(self.machine.shared, self, self.rows(*key))
        if any(self.observed[warp, barrier] < phase for barrier, phase in operand.phases):
            raise Fault("a product of what the warp has not seen arrive")
        if operand.epoch == self.machine.shared.epoch and operand.writers - {warp}:
            raise Fault("race: a product of what another warp wrote since the last barrier")
        self.operands[warp].append((self.committed[warp], operand.chunks[own]))
        self.machine.shared.reading[operand.chunks[own]] += 1
        return operand.values[own]

    def fragment(self, names, warp):
        """(register, lanes of the warp, row, column) of a warp's 16 rows of D."""
        lane = np.arange(32)
        for j, name in enumerate(names):
            yield name, slice(32 * warp, 32 * warp + 32), lane // 4 + j // 2 % 2 * 8, j // 4 * 8 + lane % 4 * 2 + j % 2

    def multiply(self, warp, names, n, a, b, accumulate):
        machine, sums = self.machine, self.sums[warp]
        block = int(machine.home[32 * warp])
        quarter = warp % (machine.block_threads // 32) % 4 * 16
        product = (self.operand(a, 64, block, warp, slice(quarter, quarter + 16)) @
                   self.operand(b, n, block, warp, slice(None)).T)
        if names in sums:
            before = sums[names][1]
        else:
            if any(set(names) & set(others) for others in sums):
                raise Fault("a product into registers of another one under way")
            if not self.fences[warp] or any(self.writes[r][warp] >= self.fences[warp] for r in names
                                            if r in self.writes):
                raise Fault("a product into registers that were used since wgmma.fence")
            before = np.zeros((16, n), np.float32)
            for name, lanes, row, column in self.fragment(names, warp):
                before[row, column] = machine.register(name)[lanes].view(np.float32)
                machine.register(name)[lanes] = 0xFFFFFFFF  # NaN to whoever reads it too early
        sums[names] = self.committed[warp], (product + (before if accumulate else 0)).astype(np.float32)

    def wait_products(self, warp, pending):
        done = self.committed[warp] - pending
        for group, chunks in self.operands[warp]:
            if group < done:
                self.machine.shared.reading[chunks] -= 1
        self.operands[warp] = [(group, chunks) for group, chunks in self.operands[warp] if group >= done]
        for names, (group, values) in list(self.sums[warp].items()):
            if group < done:
                del self.sums[warp][names]
                for name, lanes, row, column in self.fragment(names, warp):
                    self.machine.register(name)[lanes] = values[row, column].view(np.uint32)


# ---- instructions ----

def flat_addresses(machine, token, size=1):
    """Indices into the cluster's shared memory, of every active thread."""
    addresses = address(machine, token)
    return lambda active: machine.shared.flat(addresses()[active].astype(np.int64), machine.home[active], size)


@instruction("mapa")
def mapa(machine, i):
    a, rank = source(machine, i.operands[1], "u32"), source(machine, i.operands[2], "u32")
    return lambda active, everybody: machine.put(
        i.operands[0], active, everybody, (rank() + np.uint32(1)) << np.uint32(24) | a() & np.uint32(0xFFFFFF))


@instruction("fence")
def fence(machine, i):
    if i.flags == ["mbarrier_init", "release", "cluster"]:
        def fence_barriers(active, everybody):
            for b in machine.hopper.barriers.values():
                b.fenced |= bool(active[b.maker])
        return fence_barriers
    if i.flags[:2] != ["proxy", "async"]:
        raise Fault("unknown instruction: " + i.text)

    def fence_writes(active, everybody):
        machine.hopper.known.clear()
        written = np.nonzero(machine.shared.generic)[0]
        machine.shared.generic[written[active[machine.shared.writer[written]]]] = False
    return fence_writes


@instruction("barrier.cluster.arrive")
def cluster_arrive(machine, i):
    if "relaxed" in i.flags:
        raise Fault("unknown instruction: " + i.text)

    def arrive(active, everybody):
        if "aligned" in i.flags:
            whole_warps(machine, active, "barrier.cluster")
        machine.hopper.arrive_cluster(active)
    return arrive


WAITS.update(("barrier.cluster.wait", "mbarrier.try_wait", "setmaxnreg"))


@instruction("setmaxnreg")
def setmaxnreg(machine, i):
    count, more = int(i.operands[0]), i.flags[0] == "inc"
    if not 24 <= count <= 256 or count % 8:
        raise Fault("setmaxnreg: a count out of range")

    def change(active):
        stay = np.zeros(machine.threads, bool)
        for warp in whole_warps(machine, active, "setmaxnreg"):
            if (count < machine.hopper.registers[warp]) == more:
                raise Fault("setmaxnreg in the wrong direction")
            stay[32 * warp:32 * warp + 32] = not machine.hopper.set_registers(warp, count)
        return stay
    return change


@instruction("barrier.cluster.wait")
def cluster_wait(machine, i):
    return lambda active: machine.hopper.wait_cluster(active)


@instruction("mbarrier.init")
def mbarrier_init(machine, i):
    where, count = flat_addresses(machine, i.operands[0], 8), source(machine, i.operands[1], "u32")

    def init(active, everybody):
        for at, number, thread in zip(where(active), count()[active], np.nonzero(active)[0]):
            machine.hopper.make_barrier(int(at), int(number), thread)
    return init


@instruction("mbarrier.arrive")
def mbarrier_arrive(machine, i):
    operands = i.operands[1:] if i.operands[0] == "_" else i.operands
    where = flat_addresses(machine, operands[0], 8)
    expected = source(machine, operands[1], "u32") if "expect_tx" in i.flags else None

    def arrive(active, everybody):
        bytes_ = expected()[active] if expected else np.zeros(active.sum(), np.uint32)
        for at, tx, thread in zip(where(active), bytes_, np.nonzero(active)[0]):
            b = machine.hopper.barrier_at(at, thread)
            if (machine.state[machine.home == machine.home[b.maker]] == DONE).all():
                raise Fault("an arrival at an mbarrier of a block that has ended")
            machine.hopper.count(b, 1, int(tx))
    return arrive


@instruction("mbarrier.try_wait")
def mbarrier_try_wait(machine, i):
    if "parity" not in i.flags:
        raise Fault("unknown instruction: " + i.text)
    where, parity = flat_addresses(machine, i.operands[1], 8), source(machine, i.operands[2], "u32")

    def wait(active):
        """It may suspend the thread until the phase ends, so here it always does."""
        stay = np.zeros(machine.threads, bool)
        threads = np.nonzero(active)[0]
        asked = np.stack([where(active), parity()[active], threads // 32], 1)
        for at, odd, warp in np.unique(asked, axis=0):
            here = threads[(asked == (at, odd, warp)).all(1)]
            b = machine.hopper.barrier_at(at, here[-1])
            if b.completed & 1 == odd:
                stay[here] = True
            else:
                machine.hopper.observed[warp, b.number] = b.completed
        machine.put(i.operands[0], active & ~stay, False, np.ones(machine.threads, bool))
        return stay
    return wait


@instruction("cp.async.bulk.tensor")
def copy_tensor(machine, i):
    im2col, multicast = "im2col" in i.flags, "multicast::cluster" in i.flags
    if "mbarrier::complete_tx::bytes" not in i.flags or i.flags[4:6] != ["shared::cluster", "global"]:
        raise Fault("unknown instruction: " + i.text)
    where, barrier = flat_addresses(machine, i.operands[0]), flat_addresses(machine, i.operands[2], 8)
    name, coordinates = re.match(r"\[(%?\w+),\s*(\{[^}]*\})\]$", i.operands[1]).groups()
    map_at = source(machine, name, "u64")
    coordinates = [source(machine, token, "s32") for token in registers(coordinates)]
    offsets = [source(machine, token, "u16") for token in registers(i.operands[3])] if im2col else None
    mask = source(machine, i.operands[3 + im2col], "u16") if multicast else None

    def tensor_map(at):
        at = int(at) - PARAMETERS
        if not 0 <= at <= len(machine.parameters) - 128 or at % 64:
            raise Fault("a tensor map that is no aligned parameter of the kernel")
        return machine.memory.tensor_maps[int.from_bytes(machine.parameters[at:at + 128], "little")]

    def start(active, everybody):
        shared, hopper = machine.shared, machine.hopper
        for thread, to, at_barrier in zip(np.nonzero(active)[0], where(active), barrier(active)):
            tensor, home = tensor_map(map_at()[thread]), machine.home[thread]
            elements = tensor.elements([int(c()[thread]) for c in coordinates],
                                       [int(o()[thread]) for o in offsets] if im2col else None)
            data = np.zeros(elements.shape + (2,), np.uint8)
            data[elements >= 0] = machine.memory.bytes[machine.memory.indices(elements[elements >= 0], 2, False)]
            data = data.reshape(-1, CHUNK)
            own = int(to) - home * shared.of_block
            if own % 128 or own + data.size > shared.of_block:
                raise Fault("a copy to a misaligned address, or out of bounds")
            chunk = own + SHARED_BASE + CHUNK * np.arange(len(data))
            if tensor.swizzle == 128:
                chunk = chunk ^ (chunk >> 7 & 7) << 4
            targets = [r for r in range(16) if mask()[thread] >> r & 1] if multicast else [home]
            for block in targets:
                if block >= machine.blocks:
                    raise Fault("a copy to a block that the cluster has not")
                b = hopper.barrier_at(at_barrier + (block - home) * shared.of_block, block=home)
                hopper.start_copy((block * shared.of_block + chunk - SHARED_BASE) // CHUNK, data, b, block)
    return start


@instruction("wgmma.fence", "wgmma.commit_group", "wgmma.wait_group")
def wgmma_order(machine, i):
    what, pending = i.flags[0], int(i.operands[0]) if i.operands else 0

    def order(active, everybody):
        for warp in whole_warps(machine, active, "wgmma"):
            if what == "fence":
                machine.hopper.fences[warp] += 1
            elif what == "commit_group":
                machine.hopper.committed[warp] += 1
            else:
                machine.hopper.wait_products(warp, pending)
    return order


@instruction("wgmma.mma_async")
def mma_async(machine, i):
    shape = re.match(r"m64n(\d+)k16$", i.flags[3])
    if not shape or i.flags[-3:] != ["f32", "bf16", "bf16"] or i.operands[4:] != ["1", "1", "0", "0"]:
        raise Fault("unknown instruction: " + i.text)
    names, n = tuple(registers(i.operands[0])), int(shape.group(1))
    a, b = source(machine, i.operands[1], "u64"), source(machine, i.operands[2], "u64")
    accumulate = source(machine, i.operands[3], "pred")

    def start(active, everybody):
        warps = whole_warps(machine, active, "wgmma")
        given = [x().reshape(-1, 32)[warps] for x in (a, b, accumulate)]
        if any((values != values[:, :1]).any() for values in given):
            raise Fault("a product with different descriptors in one warp")
        for warp, *of_warp in zip(warps, *[values[:, 0].tolist() for values in given]):
            machine.hopper.multiply(warp, names, n, *of_warp)
    return start

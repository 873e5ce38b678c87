"""Runs a kernel's PTX on NumPy: the threads of a block are the elements of arrays.

Faults, not only wrong results, are what it looks for: addresses outside every allocation, misaligned
vectors, reads of what was never written, races between barriers in shared memory, cp.async destinations
touched too early, warp instructions by part of a warp, barriers that not all threads reach.

Threads that stand at the smallest address run first, so that diverged ones meet again. With order="warp"
the warps of a block take turns of random length, and blocks come in random order; with order="first" the
first warp that can run does, so that one block of a cluster ends long before the other. Copies land when
they are waited for (late) or at once. The blocks of a cluster run together; what is asynchronous on sm_90
is in hopper.py.
"""
import struct

import numpy as np

from hopper import Hopper
from instructions import decode
from ptx import Fault, aligned

np.seterr(all="ignore")  # infinities and NaNs are values here

PLAIN, BRANCH, BARRIER, RETURN, WAIT = range(5)  # kinds of decoded instructions
RUNNING, WAITING, BLOCKED, DONE = range(4)       # states of threads: WAITING at a barrier of the block
SHARED_BASE = 0x400                              # shared addresses begin here: 0 is no address
WINDOW = 24                                      # bits of an address in the shared memory of one block
SHARED_ALIGNMENT = 128
NOBODY, SEVERAL = -1, 1 << 20              # instead of a thread


class Memory:
    """The GPU's memory: allocations with gaps between them, and which bytes were written."""

    BASE = 0x7F0000000000
    GAP = 512

    def __init__(self, size=1 << 25):
        self.bytes = np.full(size, 0xA5, np.uint8)
        self.valid = np.zeros(size, bool)
        self.written = np.zeros(size, bool)
        self.top = 4096
        self.tensor_maps = []  # by the number that stands in a map's 128 bytes

    def reserve(self, size):
        """`size` bytes, not written yet: NaNs in every type."""
        at = aligned(self.top, 256)
        if at + size + self.GAP > len(self.bytes):
            raise MemoryError("Memory(size) is too small for this test")
        self.top = at + size + self.GAP
        self.valid[at:at + size] = True
        self.bytes[at:at + size] = 0xFF
        return self.BASE + at

    def store(self, array):
        address = self.reserve(array.nbytes)
        at = address - self.BASE
        self.bytes[at:at + array.nbytes] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self.written[at:at + array.nbytes] = True
        return address

    def load(self, address, dtype, shape):
        """An array that the kernel must have written whole."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        at = address - self.BASE
        if not self.written[at:at + size].all():
            raise Fault("%d bytes of the result were never written" % (~self.written[at:at + size]).sum())
        return np.frombuffer(self.bytes[at:at + size].tobytes(), dtype).reshape(shape)

    def indices(self, addresses, size, write):
        """Byte indices (thread, byte) of an access of `size` bytes a thread."""
        at = addresses.astype(np.int64) - self.BASE
        if ((at < 0) | (at + size > len(self.bytes))).any():
            raise Fault("global address %#x" % int(addresses[0]))
        if (at % size).any():
            raise Fault("global access of %d bytes, misaligned" % size)
        index = at[:, None] + np.arange(size)
        if not self.valid[index].all():
            raise Fault("global %s outside every allocation" % ("write" if write else "read"))
        if not write and not self.written[index].all():
            raise Fault("global read of what was never written")
        return index


class Shared:
    """The shared memory of a cluster's blocks, one behind the other, with the last reader and writer of every
    byte since the last barrier."""

    def __init__(self, of_block, blocks):
        self.of_block = of_block
        size = of_block * blocks
        self.bytes = np.full(size, 0xFF, np.uint8)
        self.written = np.zeros(size, bool)
        self.in_flight = np.zeros(size, np.int16)  # copies on their way to a byte
        self.reading = np.zeros(size // 16, np.int16)  # products that may still read 16 bytes
        self.epoch = 0                             # barriers passed
        self.read_epoch = np.full(size, -1, np.int32)
        self.write_epoch = np.full(size, -1, np.int32)
        self.reader = np.full(size, NOBODY, np.int32)
        self.writer = np.full(size, NOBODY, np.int32)
        self.generic = np.zeros(size, bool)        # written by threads, not yet fenced for TMA and wgmma

    def flat(self, addresses, homes, size):
        """Indices of the first bytes. Addresses are of the thread's own block (number `homes`), or mapa's."""
        window, at = addresses >> WINDOW, (addresses & (1 << WINDOW) - 1) - SHARED_BASE
        block = np.where(window == 0, homes, window - 1)
        if ((at < 0) | (at + size > self.of_block) | (block * self.of_block >= len(self.bytes))).any():
            raise Fault("shared address out of bounds")
        return block * self.of_block + at

    def indices(self, addresses, homes, size):
        at = self.flat(addresses.astype(np.int64), homes, size)
        if (addresses % size).any():
            raise Fault("shared access of %d bytes, misaligned" % size)
        return at[:, None] + np.arange(size)

    def read(self, index, threads):
        if not self.written[index].all():
            raise Fault("shared read of what was never written")
        if self.in_flight[index].any():
            raise Fault("shared read while a cp.async to it is in flight")
        warp = (threads // 32)[:, None]
        if ((self.write_epoch[index] == self.epoch) & (self.writer[index] // 32 != warp)).any():
            raise Fault("race: shared bytes read that another warp wrote since the last barrier")
        others = (self.read_epoch[index] == self.epoch) & (self.reader[index] // 32 != warp)
        self.reader[index] = np.where(others, SEVERAL, threads[:, None])
        self.read_epoch[index] = self.epoch
        return self.bytes[index]

    def write(self, index, threads):
        """To be followed by storing into .bytes[index]."""
        if self.in_flight[index].any():
            raise Fault("shared write while a cp.async to it is in flight")
        if self.reading[index // 16].any():
            raise Fault("shared write while a product may still read it")
        warp = (threads // 32)[:, None]
        if (((self.read_epoch[index] == self.epoch) & (self.reader[index] // 32 != warp)) |
                ((self.write_epoch[index] == self.epoch) & (self.writer[index] // 32 != warp))).any():
            raise Fault("race: shared bytes written that another warp used since the last barrier")
        if len(np.unique(index)) != index.size:
            raise Fault("two threads write one shared byte in one instruction")
        self.writer[index] = threads[:, None]
        self.write_epoch[index] = self.epoch
        self.written[index] = True
        self.generic[index] = True


class Copy:
    """One cp.async instruction of a block: who takes part and whose copies are still on their way."""

    def __init__(self, index, source, group, active):
        self.index, self.source, self.group, self.live = index, source, group, active


class Machine:
    """One launch. `executed` collects the positions in the code of what ran."""

    def __init__(self, memory, kernel, order="block", late=True, seed=0):
        self.memory, self.kernel, self.order, self.late = memory, kernel, order, late
        self.random = np.random.default_rng(seed)
        self.tables = {name: memory.store(np.frombuffer(data, np.uint8)) for name, data in kernel.tables.items()}
        self.threads, self.executed = 0, set()
        self.code = None

    def launch(self, grid, block, dynamic, arguments):
        if len(arguments) != len(self.kernel.parameters):
            raise Fault("%d arguments for %d parameters" % (len(arguments), len(self.kernel.parameters)))
        self.parameters = bytearray(self.kernel.parameter_bytes)
        for (at, size), value in zip(self.kernel.parameters.values(), arguments):
            raw = (value if isinstance(value, bytes) else struct.pack("<f", value) if isinstance(value, float)
                   else int(value).to_bytes(size, "little", signed=value < 0))
            if len(raw) != size:
                raise Fault("an argument of %d bytes where %d are wanted" % (len(raw), size))
            self.parameters[at:at + size] = raw
        if block[1:] != (1, 1) or block[0] % 32 or grid[0] % self.kernel.cluster:
            raise Fault("blocks of one dimension, whole warps, whole clusters are what this interpreter knows")
        blocks = [(x, y, z) for z in range(grid[2]) for y in range(grid[1])
                  for x in range(0, grid[0], self.kernel.cluster)]
        if self.order == "warp":
            self.random.shuffle(blocks)
        for at in blocks:
            self.run_cluster(grid, block, dynamic, at)

    # ---- the blocks of a cluster: one, unless the kernel says otherwise ----

    def run_cluster(self, grid, block, dynamic, at):
        self.blocks, self.block_threads = self.kernel.cluster, block[0]
        self.threads = self.blocks * self.block_threads
        self.warps = self.threads // 32
        thread = np.arange(self.threads)
        self.home = thread // self.block_threads
        self.special = {"%tid.x": (thread % self.block_threads).astype(np.uint32),
                        "%cluster_ctarank": self.home.astype(np.uint32)}
        for axis, size, count, position in zip("xyz", block, grid, at):
            self.special["%ntid." + axis] = np.uint32(size)
            self.special["%nctaid." + axis] = np.uint32(count)
            self.special["%ctaid." + axis] = np.uint32(position)
        self.special["%ctaid.x"] = (at[0] + self.home).astype(np.uint32)
        self.dynamic_at = aligned(self.kernel.shared_bytes, SHARED_ALIGNMENT)
        self.shared = Shared(aligned(self.dynamic_at + dynamic, SHARED_ALIGNMENT), self.blocks)
        self.hopper = Hopper(self)
        self.local = np.zeros((self.threads, max(self.kernel.local_bytes, 1)), np.uint8)
        self.registers = {}
        self.copies, self.committed = [], np.zeros(self.threads, np.int64)
        self.pc = np.zeros(self.threads, np.int64)
        self.state = np.zeros(self.threads, np.int8)
        self.barrier = np.zeros((self.threads, 2), np.int32)  # where a thread waits: number, threads
        if self.code is None:
            self.code = [decode(self, instruction) for instruction in self.kernel.code]
        size = self.threads if self.order == "block" else 32
        groups = [np.arange(first, first + size) for first in range(0, self.threads, size)]
        while True:
            ready = [g for g in groups if (self.state[g] == RUNNING).any()]
            if not ready:
                if (self.state == DONE).all():
                    break
                if not (self.pass_barriers() or self.hopper.land_one()):
                    self.stuck()
                continue
            group = ready[self.random.integers(len(ready))] if self.order == "warp" else ready[0]
            self.run_group(group, int(self.random.integers(1, 400)) if self.order == "warp" else 1 << 60)
        if any(copy.live.any() for copy in self.copies):
            raise Fault("the kernel ended with a cp.async in flight")
        self.hopper.end()

    def pass_barriers(self):
        """Nobody runs. Opens barriers that have all their threads; False when there is none."""
        passed = False
        for block in range(self.blocks):
            waiting = (self.state == WAITING) & (self.home == block)
            for number in np.unique(self.barrier[waiting, 0]):
                here = waiting & (self.barrier[:, 0] == number)
                if len(np.unique(self.pc[here])) > 1 or len(np.unique(self.barrier[here, 1])) > 1:
                    raise Fault("threads wait at different barriers")
                if here.sum() == self.barrier[here, 1][0]:
                    self.pc[here] += 1
                    self.state[here] = RUNNING
                    passed = True
        if passed:
            self.shared.epoch += 1
        return passed

    def stuck(self):
        if (self.state == WAITING).any():
            raise Fault("a barrier that some threads never reach")
        raise Fault("threads wait forever at " + self.kernel.code[self.pc[self.state == BLOCKED][0]].text)

    def run_group(self, group, turns):
        while turns > 0:
            running = group[self.state[group] == RUNNING]
            if not len(running):
                return
            pc = int(self.pc[running].min())
            here = running[self.pc[running] == pc]
            elsewhere = self.pc[running][self.pc[running] != pc]
            turns -= self.run_straight(pc, here, int(elsewhere.min()) if len(elsewhere) else len(self.code), turns)

    def run_straight(self, pc, here, limit, turns):
        """Runs threads `here` until they branch, wait, end or come to others at `limit`."""
        active = np.zeros(self.threads, bool)
        active[here] = True
        everybody, done = len(here) == self.threads, 0
        while True:
            if pc >= len(self.code):
                raise Fault("ran past the end")
            kind, act = self.code[pc]
            self.executed.add(pc)
            done += 1
            if kind == PLAIN:
                act(active, everybody)
                pc += 1
                if pc < limit and done < turns:
                    continue
                self.pc[active] = pc
            elif kind == BRANCH:
                taken, target = act(active)
                self.pc[active] = pc + 1
                self.pc[taken] = target
            elif kind == BARRIER:
                self.pc[active] = pc
                self.state[active] = WAITING
                self.barrier[active] = act
            elif kind == WAIT:
                stay = act(active)
                self.pc[active] = pc + 1
                self.pc[stay] = pc
                self.state[stay] = BLOCKED
            else:
                ended = act(active)
                self.pc[active] = pc + 1
                self.state[ended] = DONE
            return done

    # ---- registers ----

    def register(self, name):
        r = self.registers.get(name)
        if r is None:
            kind = (bool if name.startswith("%p") or name in self.kernel.predicates else np.uint16 if name.startswith("%rs")
                    else np.uint64 if name.startswith(("%rd", "%fd", "%SP")) else np.uint32)
            r = self.registers[name] = np.zeros(self.threads, kind)
        return r

    def put(self, name, active, everybody, value):
        """Stores a result of any type of the register's width, or a narrower one extended."""
        r = self.register(name)
        value = np.asarray(value)
        if value.dtype != r.dtype:
            if value.dtype.itemsize < r.dtype.itemsize and r.dtype != bool:
                wide = "u" if value.dtype.kind == "u" else "i"
                value = value.astype("%s%d" % (wide, r.dtype.itemsize)).view(r.dtype)
            elif value.dtype.itemsize == r.dtype.itemsize:
                value = np.ascontiguousarray(value).view(r.dtype)
            else:
                raise Fault("%s is narrower than the result" % name)
        if everybody:
            self.registers[name] = np.array(value)
        else:
            r[active] = value[active]
        self.hopper.note_write(name, active)

    def wake(self):
        """Something happened that blocked threads may wait for."""
        self.state[self.state == BLOCKED] = RUNNING

    # ---- cp.async ----

    def start_copy(self, index, source, active):
        """`source`: byte indices into global memory, -1 for a zero."""
        threads = np.nonzero(active)[0]
        self.shared.write(index, threads)
        self.shared.bytes[index] = 0xFF  # NaN to whoever reads it too early
        self.shared.in_flight[index] += 1
        copy = Copy(index, source, self.committed[threads].copy(), active.copy())
        if self.late:
            self.copies.append(copy)
        else:
            self.land(copy, active)

    def wait_copies(self, active, pending):
        for copy in self.copies:
            threads = np.nonzero(copy.live)[0]
            due = copy.live & active
            due[threads] &= copy.group < self.committed[threads] - pending
            if due.any():
                self.land(copy, due)
        self.copies = [copy for copy in self.copies if copy.live.any()]

    def land(self, copy, due):
        threads = np.nonzero(copy.live)[0]
        now = due[threads]
        index, source = copy.index[now], copy.source[now]
        self.shared.bytes[index] = np.where(source < 0, 0, self.memory.bytes[np.maximum(source, 0)])
        self.shared.in_flight[index] -= 1
        self.shared.writer[index] = threads[now][:, None]
        self.shared.write_epoch[index] = self.shared.epoch
        copy.index, copy.source, copy.group = copy.index[~now], copy.source[~now], copy.group[~now]
        copy.live = copy.live & ~due

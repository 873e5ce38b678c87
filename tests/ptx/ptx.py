"""Reads the PTX that nvcc makes: kernels, their parameters, declarations and instructions.

Only the text is understood here; what an instruction does stands in instructions.py.
"""
import copy
import re

PARAMETER_BYTES = {"u64": 8, "b64": 8, "u32": 4, "s32": 4, "b32": 4, "f32": 4, "u16": 2, "b8": 1, "u8": 1}

ENTRY = re.compile(r"\.entry\s+(\w+)\s*\(([^)]*)\)[^{]*\{")
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\S*\s+)*(\w+)(?:\[(\d+)\])?")
ARRAY = re.compile(r"\.(shared|local)\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\];")
TABLE = re.compile(r"\.global\s+\.align\s+\d+\s+\.b8\s+(\w+)\[\d+\]\s*=\s*\{([^}]*)\};")
DIRECTIVE = re.compile(r"(?<=\s)\.(?:(?:shared|local|reg|pragma)\b[^;]*;|loc\s.*)")
LABEL = re.compile(r"^[{}\s]*(\$\w+):\s*")
GUARD = re.compile(r"^@(!?)([%\w]+)\s+")
PREDICATES = re.compile(r"\.reg\s+\.pred\s+([^;%]+);")  # of inline assembly, by name
CLUSTER = re.compile(r"\.reqnctapercluster\s+(\d+)\s*(?:,\s*1\s*)*\{")


class Fault(Exception):
    """The program does what a GPU does not allow, or what this interpreter does not know."""


def aligned(offset, alignment):
    return (offset + alignment - 1) // alignment * alignment


def split_operands(text):
    """`{a, b}, [c+4], 7` -> ["{a, b}", "[c+4]", "7"]"""
    out, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "{[") - (c in "}]")
        if c == "," and depth == 0:
            out.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return out + [last] if last else out


class Instruction:
    """`@!%p1 add.rn.f32 %f1, %f2, %f3`: guard ("!", "%p1"), name "add", flags ["rn", "f32"], operands."""

    def __init__(self, text):
        self.text = text
        self.guard = None
        guard = GUARD.match(text)
        if guard:
            self.guard = (guard.group(1) == "!", guard.group(2))
            text = text[guard.end():]
        opcode, *rest = text.split(None, 1)
        self.name, *self.flags = opcode.split(".")
        self.type = self.flags[-1] if self.flags else ""
        self.operands = split_operands(rest[0]) if rest else []

    @property
    def synchronises(self):
        """Barriers, waits and fences: what a test takes out to see whether anybody notices."""
        return (self.name in ("bar", "barrier", "mbarrier", "fence") and "warp" not in self.flags or
                self.name == "cp" and "wait_group" in self.flags or
                self.name == "wgmma" and "mma_async" not in self.flags)


class Kernel:
    """One .entry: parameters {name: (offset, bytes)}, shared and local arrays, code and labels."""

    def __init__(self, name, parameters, body, tables, cluster=1):
        self.name = name
        self.tables = tables
        self.cluster = cluster  # blocks in a cluster, side by side in x
        self.predicates = {name.strip() for names in PREDICATES.findall(body) for name in names.split(",")}
        self.parameters, self.parameter_bytes = {}, 0
        for alignment, kind, parameter, count in PARAMETER.findall(parameters):
            size = int(count) if count else PARAMETER_BYTES[kind]
            at = aligned(self.parameter_bytes, int(alignment) if alignment else size)
            self.parameters[parameter] = (at, size)
            self.parameter_bytes = at + size
        self.shared, self.shared_bytes, self.local_bytes = {}, 0, 0
        for space, alignment, array, size in ARRAY.findall(body):
            if space == "local":
                self.local_bytes = int(size)
                continue
            at = aligned(self.shared_bytes, int(alignment))
            self.shared[array] = at
            self.shared_bytes = at + int(size)
        self.code, self.labels = [], {}
        for piece in re.split(r"(?<=[;:])(?=\s)", DIRECTIVE.sub("", body)):
            label = LABEL.match(piece)
            while label:
                self.labels[label.group(1)] = len(self.code)
                piece = piece[label.end():]
                label = LABEL.match(piece)
            piece = piece.strip(" \t\n{}") if not piece.strip().endswith(";") else piece.strip().lstrip("{} \t\n")
            if not piece:
                continue
            if not piece.endswith(";"):
                raise Fault("cannot read %r" % piece[:80])
            self.code.append(Instruction(piece[:-1].strip()))

    def without(self, index):
        """The same kernel with one instruction taken out."""
        other = copy.copy(self)
        other.code = list(self.code)
        gone = other.code[index]
        other.code[index] = Instruction("mov.pred %s, 1" % gone.operands[0] if "try_wait" in gone.flags else "nop")
        return other


def body_at(text, start):
    """The text up to the brace that closes the one before `start`."""
    depth, i = 1, start
    while depth:
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        i += 1
    return text[start:i - 1]


def parse(text):
    """{name: Kernel} of a PTX file's text."""
    text = re.sub(r"//.*", "", text)
    tables = {name: bytes(int(v) for v in values.split(",")) for name, values in TABLE.findall(text)}
    kernels = {}
    for m in ENTRY.finditer(text):
        cluster = CLUSTER.search(m.group(0))
        kernels[m.group(1)] = Kernel(m.group(1), m.group(2), body_at(text, m.end()), tables,
                                     int(cluster.group(1)) if cluster else 1)
    return kernels

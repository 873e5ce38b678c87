"""The mutations of the shipped kernels: every barrier and wait, found; other faults, planted.

A mutation replaces one piece of a kernel's text. `mutate.py` builds all of them into one module, each
behind a switch, and requires a test to fail for each.
"""
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
KERNELS = os.path.join(os.path.dirname(os.path.dirname(HERE)), "kernels")
SKIPPED = {"device_intrinsics.cuh"}  # defines what is removed
STATEMENT = re.compile(r"(__syncthreads|__syncwarp|cp_async_wait<[^;]*>)\([^;]*\);")
NAME = re.compile(r"(\w+)\(")

# (file, expression, what it becomes, the fault). The expression stands in the file once, or its n-th
# occurrence is meant by a number at the end. Expressions must be evaluated at run time.
PLANTED = [
    ("attention.cu", "step * 2 + (lane >> 3 & 1)", "step * 2 + (lane >> 4)", "wrong fragment of K"),
    ("attention.cu", "pair * 2 + (lane >> 4)", "pair * 2 + (lane >> 3 & 1)", "wrong fragment of V"),
    ("attention.cu", "8 * j + 2 * t + e % 2 >= valid", "8 * j + 2 * t + e % 2 > valid", "a key too many"),
    ("attention.cu", "token >= T", "token > T", "a query too many"),
    ("attention.cu", "chunk ^ swizzle", "chunk", "no swizzle: bank conflicts"),
    ("attention.cu", "static_cast<int>(blockIdx.z) * F32_THREADS + tid",
     "static_cast<int>(blockIdx.z) * F32_THREADS + (tid & ~1)", "two threads write one row"),
    ("conv.cu", "step % STAGES * STAGE_ELEMENTS", "(step + 1) % STAGES * STAGE_ELEMENTS",
     "stage index swapped", 2),
    ("conv.cu", "half * 2 + (lane >> 4)", "half * 2 + (lane >> 3 & 1)", "wrong fragment of the pixels"),
    ("conv.cu", "step + STAGES - 1 < steps", "step + STAGES - 1 <= steps", "a stage too many"),
    ("conv.cu", "pixel >= pixels", "pixel > pixels", "a pixel too many"),
    ("conv.cu", "chunk ^ (row >> 1 & 3)", "chunk ^ (row & 3)", "another swizzle for the fill"),
    ("conv.cu", "y >= conv.h << up", "y > conv.h << up", "a picture row too many"),
    ("conv3x3.cu", "step % STAGES * stage<COLUMNS, TAPS>::elements",
     "(step + 1) % STAGES * stage<COLUMNS, TAPS>::elements", "stage index swapped", 2),
    ("conv3x3.cu", "swizzled(row, lane >> 3 & 1)", "swizzled(row, lane >> 4)", "wrong fragment of the weights"),
    ("conv3x3.cu", "half ^ (row >> 2 & 1)", "half", "no swizzle: bank conflicts"),
    ("conv3x3.cu", "x < conv.w", "x <= conv.w", "a picture column too many"),
    ("conv3x3.cu", "x >= width", "x > width", "a pixel too many"),
    ("conv3x3.cu", "mine + row_step * i < pixel_rows", "mine + row_step * i <= pixel_rows",
     "fills a row of the weights"),
    ("conv3x3.cu", "tile.b - 1 + pixel % side", "pixel % side - 1", "one parity's pixels for both"),
    ("conv3x3.cu", "high * wide", "SIDE * SIDE", "statistics of pixels that are not there"),
    ("conv_statistics.cuh", "(g + 1) * width / 4", "(g + 1) * width / 4 - 1", "statistics without a quad"),
    ("embed.cu", "i >= total", "i > total", "an element too many", 2),
    ("embed.cu", "t < 14", "t < 15", "a token of another scalar"),
    ("group_norm.cu", "p < last", "p <= last", "a pixel of the next strip"),
    ("group_norm.cu", "(row * 4 + 2) * stride", "(row * 4 + 1) * stride", "planes overlap"),
    ("group_norm.cu", "m.x * m.z", "m.x * mine[0].z", "the last strip counted whole"),
    ("linear.cu", "m0 + row < M", "m0 + row <= M", "a row too many"),
    ("linear.cu", "X[ty + 16][k]", "X[ty + 15][k]", "wrong row of the tile"),
    ("picture.cu", "sx >= w", "sx > w", "a picture column too many"),
    ("picture.cu", "i >= total", "i > total", "a thread too many", 3),
    ("rms_norm.cu", "row >= rows", "row > rows", "a row too many"),
    ("rms_norm.cu", "c < C ? *reinterpret_cast<const float4 *>(x + c) : make_float4(0, 0, 0, 0)",
     "*reinterpret_cast<const float4 *>(x + c)", "no bound on the columns"),
    ("swiglu.cu", "i >= total", "i > total", "eight elements too many"),
]


def without_comments(text):
    """Comments blanked out, lines and columns kept."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())
    return re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.S)


def sources():
    return [n for n in sorted(os.listdir(KERNELS)) if n.endswith((".cu", ".cuh")) and n not in SKIPPED]


def read(name):
    return open(os.path.join(KERNELS, name)).read()


def functions(text):
    """The name of the function around each line, first line first."""
    function, waiting, out = "?", False, []
    for line in text.split("\n"):
        if waiting or line[:1].strip() and not line.startswith(("#", "static_assert")):
            names = [n for n in NAME.findall(line) if n not in ("sizeof", "__launch_bounds__", "__align__")]
            function = names[0] if names else function
            waiting = "__launch_bounds__" in line and not names  # the name is on the next line
        out.append(function)
    return out


def barriers(name, text):
    offset = 0
    for line in text.split("\n"):
        if not line.lstrip().startswith("#"):
            for m in STATEMENT.finditer(line):
                yield {"begin": offset + m.start(), "end": offset + m.end(), "becomes": None,
                       "change": "no `%s`" % m.group().rstrip(";")}
        offset += len(line) + 1


def planted(name, text):
    for file, find, becomes, what, *nth in PLANTED:
        if file != name:
            continue
        # Line breaks may come and go with the formatter.
        pattern = r"\s+".join(re.escape(w) for w in find.split())
        found = list(re.finditer(r"(?<![\w.])" + pattern + r"(?!\w)", text))
        n = nth[0] if nth else 1
        if len(found) < n:
            raise SystemExit("%s: `%s` is not there (any more); see PLANTED in mutations.py" % (name, find))
        yield {"begin": found[n - 1].start(), "end": found[n - 1].end(), "becomes": becomes,
               "change": "%s: `%s`" % (what, becomes)}


def find_mutations():
    """All of them, in the order of the files; "number" is the switch's position."""
    out = []
    for name in sources():
        text = without_comments(read(name))
        around, seen = functions(text), {}
        every = list(barriers(name, text)) + list(planted(name, text))
        for m in sorted(every, key=lambda m: m["begin"]):
            m["file"] = name
            m["line"] = text.count("\n", 0, m["begin"]) + 1
            m["function"] = around[m["line"] - 1]
            k = (m["function"], m["change"])
            seen[k] = m["nth"] = seen.get(k, 0) + 1
            m["number"] = len(out) + 1
            out.append(m)
    return out


def key(m):
    return "%s: %s: %s #%d" % (m["file"], m["function"], m["change"], m["nth"])


def switched(name, mutations):
    """The file's text with each of its mutations behind its switch; lines keep their numbers."""
    text = read(name)
    for m in sorted((m for m in mutations if m["file"] == name), key=lambda m: -m["begin"]):
        original = text[m["begin"]:m["end"]]
        if m["becomes"] is None:
            new = "if (!imf_emu_mutant(%d)) %s" % (m["number"], original)
        else:
            new = "(imf_emu_mutant(%d) ? (%s) : (%s))" % (m["number"], m["becomes"], original)
        text = text[:m["begin"]] + new + text[m["end"]:]
    head = 'extern "C" int imf_emu_mutant(int number);\n#line 1 "%s"\n' % os.path.join(KERNELS, name)
    return head + text

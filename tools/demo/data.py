"""Pictures for the demo model: colour emoji of the Noto font on pastel grounds.

Twenty classes of one to four glyphs. A picture is a glyph (a hue turn, a small rotation, scale, shift,
perhaps mirrored) over a soft two-colour gradient, so that two seeds of one class differ. Pictures are
drawn by the batch with torch, are never stored, and depend on the generator passed in only.
"""
import colorsys
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"  # Debian: fonts-noto-color-emoji
SIDE = 128

# name, glyphs, how far the hue may turn (1 = any colour, 0 = as drawn), whether it may be mirrored
CLASSES = [
    ("smiley", "😀😃😊🙂", 0.02, True),
    ("cat", "🐱😺😸", 0.03, True),
    ("dog", "🐶", 0.03, True),
    ("bear", "🐻🐼", 0.03, True),
    ("bird", "🐦", 0.10, False),
    ("fish", "🐠", 0.40, False),
    ("butterfly", "🦋", 0.40, True),
    ("flower", "🌸🌼", 0.15, True),
    ("tree", "🌲🌳", 0.06, True),
    ("mushroom", "🍄", 0.15, True),
    ("apple", "🍎🍏", 0.03, True),
    ("cake", "🎂🧁", 0.10, True),
    ("car", "🚗🚙", 0.40, False),
    ("house", "🏠", 0.10, False),
    ("balloon", "🎈", 0.50, True),
    ("heart", "💛💚💙💜", 0.10, True),
    ("star", "⭐", 0.05, True),
    ("sun", "☀", 0.03, True),
    ("sailboat", "⛵", 0.40, False),
    ("rocket", "🚀", 0.40, False),
]
CLASS_NAMES = [c[0] for c in CLASSES]


def draw_glyphs():
    """All glyphs [G,4,128,136], premultiplied RGBA in [0, 1], and for each class its first glyph and count."""
    font = ImageFont.truetype(FONT, 109)
    out, first, count = [], [], []
    for _, glyphs, _, _ in CLASSES:
        first.append(len(out))
        count.append(len(glyphs))
        for ch in glyphs:
            im = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
            ImageDraw.Draw(im).text((0, 0), ch, font=font, embedded_color=True)
            a = np.asarray(im).astype(np.float32) / 255.0
            a[..., :3] *= a[..., 3:]
            out.append(a.transpose(2, 0, 1))
    return torch.from_numpy(np.stack(out)), torch.tensor(first), torch.tensor(count)


def hue_matrix(turn):
    """Rotations [B,3,3] of the chroma plane (YIQ) by `turn` full turns; linear, so premultiplied colours work."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    c, s = torch.cos(turn * 2 * math.pi), torch.sin(turn * 2 * math.pi)
    one, zero = torch.ones_like(c), torch.zeros_like(c)
    rot = torch.stack([one, zero, zero, zero, c, -s, zero, s, c], -1).view(-1, 3, 3)
    return torch.linalg.inv(to_yiq) @ rot @ to_yiq


def pastel(n, gen):
    """Two pastel colours [n,2,3] of neighbouring hues."""
    u = torch.rand(n, 4, generator=gen).tolist()
    rows = []
    for hue, dh, sat, val in u:
        sat, val = 0.12 + 0.33 * sat, 0.88 + 0.12 * val
        rows.append([colorsys.hsv_to_rgb(hue, sat, val),
                     colorsys.hsv_to_rgb((hue + 0.16 * (dh - 0.5)) % 1.0, sat * 0.5, 1.0)])
    return torch.tensor(rows)


class Painter:
    def __init__(self):
        self.glyphs, self.first, self.count = draw_glyphs()
        self.turn = torch.tensor([c[2] for c in CLASSES])
        self.mirror = torch.tensor([c[3] for c in CLASSES])

    def pictures(self, labels, gen):
        """Pictures [B,3,128,128] in [0, 1] for a tensor of labels, and the index of the glyph each one shows."""
        n = len(labels)
        u = torch.rand(n, 7, generator=gen)
        which = self.first[labels] + (u[:, 0] * self.count[labels]).long()
        turn = (u[:, 1] - 0.5) * self.turn[labels]
        angle = (u[:, 2] - 0.5) * 2 * math.radians(9)
        scale = 0.80 + 0.14 * u[:, 3]
        shift = (u[:, 4:6] - 0.5) * 2 * 0.05
        flip = torch.where((u[:, 6] < 0.5) & self.mirror[labels], -1.0, 1.0)
        # Output pixel -> glyph pixel, in grid_sample's [-1, 1] units; the glyph is 136 wide, 128 high.
        c, s = torch.cos(angle) / scale, torch.sin(angle) / scale
        theta = torch.stack([flip * c * 128 / 136, flip * s * 128 / 136, shift[:, 0], -s, c, shift[:, 1]], -1)
        grid = F.affine_grid(theta.view(n, 2, 3), (n, 4, SIDE, SIDE), align_corners=False)
        g = F.grid_sample(self.glyphs[which], grid, mode="bilinear", align_corners=False)
        rgb, alpha = g[:, :3], g[:, 3:]
        rgb = torch.einsum("nij,njhw->nihw", hue_matrix(turn), rgb)
        rgb = torch.minimum(rgb.clamp(min=0), alpha)
        ends = pastel(n, gen)
        ramp = torch.linspace(0, 1, SIDE).view(1, 1, SIDE, 1)
        ground = ends[:, 0, :, None, None] * (1 - ramp) + ends[:, 1, :, None, None] * ramp
        return rgb + ground * (1 - alpha), which


def to_u8(x):
    """[B,3,H,W] in [0, 1] to uint8 NHWC as the server rounds: clip, ties to even."""
    return (x.float() * 255).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def sheet(pictures_u8, columns, path, side=None):
    """Write pictures [N,H,W,3] as one PNG of so many columns."""
    n, h, w, _ = pictures_u8.shape
    rows = (n + columns - 1) // columns
    out = np.full((rows * h, columns * w, 3), 255, np.uint8)
    for i, p in enumerate(pictures_u8):
        y, x = divmod(i, columns)
        out[y * h:(y + 1) * h, x * w:(x + 1) * w] = p
    im = Image.fromarray(out)
    if side:
        im = im.resize((columns * side, rows * side), Image.LANCZOS)
    im.save(path, optimize=True)

"""Procedural renderer of relics: signed distances, bevelled two-tone shading, outline, glow.

`render(indices, latent)` is a pure function of eight trait indices and sixteen numbers in
[-1, 1]. It draws at twice the final size with analytic anti-aliasing and halves the result.

What the latent's numbers do: 0 tilt, 1 size, 2 width, 3 length, 4 curve, 5 light angle,
6 hue of the material, 7 hue of the palette, 8 brightness, 9 gem size, 10 phase of the ornament,
11 place of the wear, 12 reach of the glow, 13 phase of the background, 14 and 15 offset.
"""

import numpy as np
from PIL import Image, ImageFilter

from vocabulary import IMAGE_SIZE, LATENT_LENGTH, TRAITS

SIZE = 2 * IMAGE_SIZE
PIXEL = np.float32(2.0 / SIZE)
_axis = (np.arange(SIZE, dtype=np.float32) + 0.5) * PIXEL - 1.0
X, Y = np.meshgrid(_axis, -_axis)
RADIUS = np.sqrt(X * X + Y * Y)


def rgb(*values):
    return np.array(values, np.float32) / 255.0


MATERIAL = {
    "steel": rgb(158, 174, 196), "gold": rgb(244, 190, 62), "obsidian": rgb(66, 56, 88),
    "jade": rgb(96, 196, 158), "wood": rgb(156, 98, 54), "ivory": rgb(240, 228, 202),
}
SHINE = {"steel": 0.75, "gold": 0.8, "obsidian": 0.9, "jade": 0.45, "wood": 0.12, "ivory": 0.25}
PALETTE = {
    "crimson": rgb(208, 44, 58), "azure": rgb(52, 122, 228), "emerald": rgb(40, 164, 84),
    "amber": rgb(244, 146, 36), "violet": rgb(138, 72, 214), "rose": rgb(246, 132, 182),
}
GEM = {"ruby": rgb(240, 36, 66), "sapphire": rgb(44, 104, 250), "emerald": rgb(34, 208, 96),
       "diamond": rgb(226, 246, 255)}
GLOW = {"golden": rgb(255, 206, 84), "cyan": rgb(70, 232, 255), "violet": rgb(196, 92, 255),
        "verdant": rgb(128, 255, 92)}
BACKGROUND = {
    "night": (rgb(42, 54, 108), rgb(14, 16, 42)), "ember": (rgb(134, 52, 36), rgb(44, 14, 16)),
    "forest": (rgb(48, 98, 66), rgb(14, 34, 28)), "dusk": (rgb(232, 140, 122), rgb(74, 44, 110)),
    "sand": (rgb(226, 198, 146), rgb(158, 118, 76)), "frost": (rgb(214, 234, 246), rgb(112, 152, 192)),
}
INK = rgb(24, 16, 32)


def smooth(low, high, value):
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def cover(distance):
    """Anti-aliased coverage of a signed distance (inside is negative)."""
    return np.clip(0.5 - distance / (1.4 * PIXEL), 0.0, 1.0)


def circle(x, y, cx, cy, r):
    return np.hypot(x - cx, y - cy) - r


def box(x, y, cx, cy, hx, hy, r=0.0):
    qx, qy = np.abs(x - cx) - hx + r, np.abs(y - cy) - hy + r
    return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - r


def capsule(x, y, ax, ay, bx, by, r):
    dx, dy = bx - ax, by - ay
    t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return np.hypot(x - ax - t * dx, y - ay - t * dy) - r


def distance_of(field):
    """Turns any implicit field into an approximate distance near its zero line."""
    gy, gx = np.gradient(field, PIXEL)
    return field / np.maximum(np.hypot(gx, gy), 0.35)


def ellipse(x, y, cx, cy, rx, ry):
    k = np.hypot((x - cx) / rx, (y - cy) / ry)
    return (k - 1.0) * min(rx, ry)


class Scene:
    """One picture being painted: canvas, light, and the silhouette of the item so far."""

    def __init__(self, background, light, accent, material, shine, tone):
        self.canvas = background
        self.light = light
        self.accent, self.material, self.shine, self.tone = accent, material, shine, tone
        self.layers = []

    def part(self, distance, colour, bevel=0.16, shine=0.2, ornament=False, flat=False, line=0.028):
        self.layers.append((distance.astype(np.float32), colour, bevel, shine, ornament, flat, line))

    def silhouette(self):
        out = self.layers[0][0]
        for layer in self.layers[1:]:
            out = np.minimum(out, layer[0])
        return out

    def paint(self, ornament, rim):
        lx, ly = self.light
        for distance, colour, bevel, shine, ornamented, flat, line in self.layers:
            alpha = cover(distance)
            if line:
                self.blend(cover(distance - line) * 0.92, INK)
            base = np.broadcast_to(colour, (SIZE, SIZE, 3)) if colour.ndim == 1 else colour
            if ornamented and ornament is not None:
                bright = float(self.material.mean())
                inlay = base * 0.40 if bright > 0.42 else base * 0.5 + 0.42
                inside = smooth(-0.045, -0.075, distance) * ornament
                base = base + (inlay - base) * inside[..., None]
            if flat:
                shaded = base
            else:
                gy, gx = np.gradient(distance, PIXEL)
                gy = -gy
                depth = np.clip(1.0 + distance / bevel, 0.0, 1.0)
                facing = (gx * lx + gy * ly) * depth * 0.9
                body = 0.80 + 0.26 * smooth(-0.10, 0.16, facing) + 0.16 * smooth(0.42, 0.62, facing)
                body = body - 0.34 * smooth(0.12, 0.52, -facing)
                body = body + 0.10 * (X * lx + Y * ly)
                spec = shine * smooth(0.60, 0.80, facing) * 0.75
                shaded = base * body[..., None] + spec[..., None]
                if rim is not None:
                    edge = smooth(0.45, 0.9, depth) * smooth(0.1, 0.6, -facing)
                    shaded = shaded + (0.5 * edge)[..., None] * rim
            self.blend(alpha, np.clip(shaded, 0.0, 1.0))

    def blend(self, alpha, colour):
        self.canvas += alpha[..., None] * (colour - self.canvas)

    def add(self, amount, colour):
        """Screen-like light: never leaves [0, 1]."""
        self.canvas += amount[..., None] * colour * (1.0 - self.canvas)


def blurred(mask, radius):
    small = Image.fromarray((np.clip(mask, 0, 1) * 255).astype(np.uint8))
    return np.asarray(small.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255.0


def backdrop(name, phase):
    inner, outer = BACKGROUND[name]
    shade = smooth(0.1, 1.35, np.hypot(X * 0.95, (Y + 0.05)))
    canvas = inner + (outer - inner) * shade[..., None]
    p = 0.05 * phase
    if name == "night":
        stars = np.zeros_like(X)
        for cx, cy, r in ((-.72, .7, .05), (.66, .82, .035), (.82, .2, .045), (-.85, -.1, .03),
                          (-.6, -.8, .045), (.72, -.68, .035), (.12, .88, .03), (-.3, .82, .025)):
            cx, cy = cx + p, cy - 0.6 * p
            star = np.maximum(np.abs(X - cx) + 3.0 * np.abs(Y - cy), 0) / r
            star = np.minimum(star, (3.0 * np.abs(X - cx) + np.abs(Y - cy)) / r)
            stars = np.maximum(stars, smooth(2.0, 0.8, star))
        canvas += (stars * 0.75)[..., None] * (1.0 - canvas)
    elif name == "ember":
        rays = smooth(-0.2, 0.2, np.cos(np.arctan2(Y + 0.1, X) * 10.0 + 6.0 * p))
        canvas += (rays * smooth(0.1, 0.7, RADIUS) * 0.42)[..., None] * (rgb(236, 110, 50) - canvas)
    elif name == "forest":
        wave = np.sin((X + Y * 0.6 + p) * 11.0)
        canvas += (smooth(0.1, 0.45, wave) * 0.30)[..., None] * (rgb(110, 170, 84) - canvas)
    elif name == "dusk":
        canvas = inner + (outer - inner) * smooth(-0.7, 0.8, Y + p)[..., None]
        sun = smooth(0.86, 0.80, np.hypot(X, Y + 0.08 + p))
        canvas += (sun * 0.36)[..., None] * (rgb(255, 206, 150) - canvas)
    elif name == "sand":
        wave = np.sin((Y + 0.09 * np.sin(X * 4.2 + 5.0 * p)) * 15.0 + 6.0 * p)
        canvas += (smooth(0.1, 0.5, wave) * 0.30)[..., None] * (rgb(142, 98, 60) - canvas)
    else:
        u, v = np.abs(np.sin((X + Y + p) * 5.0)), np.abs(np.sin((X - Y) * 5.0))
        canvas += (smooth(0.24, 0.10, np.minimum(u, v)) * 0.62)[..., None] * (1.0 - canvas)
    edge = smooth(0.86, 1.5, RADIUS)
    return canvas * (1.0 - 0.5 * edge)[..., None]


def ornament_field(name, x, y, phase):
    """Coverage of the engraved pattern in the item's own coordinates; None for a plain item."""
    s = 0.03 * phase
    if name == "bands":
        return smooth(-0.1, 0.25, np.sin((y + s) * 21.0) - 0.1)
    if name == "dots":
        p = 0.25
        u = (x / p + 0.5) % 1.0 - 0.5
        v = ((y + s) / p + 0.5) % 1.0 - 0.5
        return smooth(0.34, 0.24, np.hypot(u, v))
    if name == "chevrons":
        return smooth(-0.1, 0.25, np.sin((y + s - np.abs(x) * 1.0) * 17.0) - 0.15)
    if name == "lattice":
        u, v = np.abs(np.sin((x + y + s) * 9.5)), np.abs(np.sin((x - y - s) * 9.5))
        return smooth(0.42, 0.24, np.minimum(u, v))
    return None


def textured(name, colour, x, y):
    """The material's own grain, low in contrast so that it does not read as ornament."""
    if name == "steel":
        grain = 0.05 * np.sin(x * 9.0 + y * 3.0)
    elif name == "gold":
        grain = 0.05 * np.sin(y * 5.0 - x * 4.0)
    elif name == "obsidian":
        grain = 0.10 * smooth(0.1, 0.3, np.sin(x * 7.0 + y * 5.0)) - 0.02
    elif name == "jade":
        grain = 0.10 * np.sin(x * 6.0 + 1.5 * np.sin(y * 5.0))
    elif name == "wood":
        grain = 0.14 * np.sin(x * 26.0 + 2.0 * np.sin(y * 4.0))
    else:
        grain = 0.04 * np.sin(y * 8.0 + np.sin(x * 5.0))
    return colour * (1.0 + grain)[..., None]


def blade(s, x, y, z):
    w, top = 0.225 + 0.03 * z[2], 1.00 + 0.05 * z[3]
    bend = 0.10 * z[4] * (y - 0.1) ** 2
    xb = x - bend
    taper = w * np.clip((top - y) / 0.42, 0.0, 1.0) ** 0.6
    steel = np.maximum(np.maximum(distance_of(np.abs(xb) - taper), -0.40 - y), y - top)
    s.part(capsule(x, y, 0, -0.46, 0, -0.86, 0.075), s.accent, 0.09)
    s.part(circle(x, y, 0, -0.92, 0.115 + 0.02 * z[2]), s.material, 0.12, s.shine)
    s.part(steel, s.material, 0.20, s.shine, ornament=True)
    g = 0.36 + 0.05 * z[2]
    rise = 0.10 + 0.10 * z[4]
    guard = np.minimum(capsule(x, y, 0, -0.42, g, -0.42 + rise, 0.095),
                       capsule(x, y, 0, -0.42, -g, -0.42 + rise, 0.095))
    s.part(guard, s.accent, 0.10)
    return (0.0, -0.38, 0.17)


def shield(s, x, y, z):
    w, low = 0.66 + 0.05 * z[2], 0.92 + 0.06 * z[3]
    arch = 0.72 + (0.08 + 0.06 * z[4]) * np.cos(x * 4.6)
    side = np.where(y > 0.12, w, w * np.sqrt(np.clip(1.0 - ((0.12 - y) / low) ** 2, 0.0, 1.0)) ** 1.25)
    outer = distance_of(np.maximum(np.abs(x) - side, y - arch))
    outer = np.maximum(outer, 0.16 - low - y)
    s.part(outer, s.material, 0.11, s.shine)
    s.part(outer + 0.15, s.accent, 0.30, ornament=False)
    band = np.maximum(np.abs(x) - 0.21 - 0.02 * z[2], outer + 0.15)
    s.part(band, s.material, 0.12, s.shine, ornament=True, line=0.02)
    return (0.0, 0.10, 0.19)


def flask(s, x, y, z):
    r = 0.55 + 0.03 * z[2]
    neck = 0.60 + 0.06 * z[3]
    bulb = circle(x, y, 0, -0.26, r)
    tube = box(x, y, 0, 0.32, 0.17, 0.30)
    glass = np.minimum(bulb, tube)
    level = -0.02 + 0.10 * z[4] + 0.03 * np.sin(x * 6.0)
    wet = smooth(-0.02, 0.02, level - y)[..., None]
    tint = s.accent * 0.35 + 0.55
    fill = tint * (1.0 - wet) + s.accent * wet
    fill = fill + (smooth(0.035, 0.0, np.abs(level - y)) * 0.35)[..., None]
    s.part(glass, np.clip(fill, 0, 1).astype(np.float32), 0.24, 0.8)
    strap = np.maximum(np.abs(y + 0.30) - 0.185, bulb - 0.02)
    s.part(strap, s.material, 0.10, s.shine, ornament=True, line=0.022)
    s.part(box(x, y, 0, neck - 0.30, 0.23, 0.075, 0.05), s.material, 0.08, s.shine)
    s.part(box(x, y, 0, neck + 0.08, 0.25, 0.09, 0.06), s.material, 0.09, s.shine)
    s.part(box(x, y, 0, -0.80, 0.34, 0.085, 0.06), s.material, 0.09, s.shine)
    return (0.0, -0.30, 0.16)


def ring(s, x, y, z):
    r, t = 0.47 + 0.03 * z[2], 0.155 + 0.015 * z[4]
    cy = -0.14
    sq = 1.0 + 0.06 * z[3]
    cushion = distance_of(ellipse(x, y, 0, -0.72, 0.74, 0.25))
    s.part(cushion, s.accent, 0.20)
    d = np.hypot(x, (y - cy) * sq)
    band = np.abs(d - r) - t
    s.part(band, s.material, 0.13, s.shine, ornament=True)
    s.part(np.abs(d - r + t + 0.005) - 0.030, s.accent, 0.05, line=0.0)
    s.part(box(x, y, 0, 0.44, 0.25, 0.15, 0.08), s.accent, 0.12)
    s.part(ellipse(x, y, 0, 0.50, 0.255, 0.235), s.material, 0.10, s.shine)
    return (0.0, 0.52, 0.185)


def helm(s, x, y, z):
    w = 0.56 + 0.04 * z[2]
    h = 0.02 + 0.06 * z[3]
    sway = 0.12 * z[4]
    plume = np.minimum(capsule(x, y, 0.0, 0.58 + h, 0.10 + sway, 0.76 + h, 0.15),
                       capsule(x, y, 0.10 + sway, 0.76 + h, 0.46 + sway, 0.62 + h, 0.145))
    plume = np.minimum(plume, capsule(x, y, 0.46 + sway, 0.62 + h, 0.66 + sway, 0.34 + h, 0.10))
    s.part(plume, s.accent, 0.14)
    dome = ellipse(x, y, 0, 0.08, w, 0.56 + h)
    skirt = box(x, y, 0, -0.34, w, 0.42, 0.16)
    shell = np.minimum(np.where(y > 0.05, dome, 9.0), np.where(y <= 0.05, skirt, 9.0))
    s.part(distance_of(shell), s.material, 0.24, s.shine, ornament=True)
    s.part(box(x, y, 0, -0.02, w + 0.05, 0.085, 0.05), s.accent, 0.09)
    slit = np.minimum(box(x, y, 0, -0.25, w - 0.13, 0.075, 0.06), box(x, y, 0, -0.52, 0.075, 0.27, 0.06))
    s.part(slit, INK * 0.9, 0.1, 0.0, flat=True, line=0.0)
    return (0.0, 0.22, 0.16)


def familiar(s, x, y, z):
    w = 0.52 + 0.04 * z[2]
    ear = 0.80 + 0.10 * z[3]
    flop = 0.10 * z[4]
    ax = np.abs(x)
    ears = capsule(ax, y, 0.26, 0.40, 0.46 + flop, ear, 0.125)
    s.part(capsule(x, y, 0.30, -0.66, 0.74, -0.40 + 0.12 * z[4], 0.12), s.accent, 0.12)
    s.part(ears, s.accent, 0.12)
    s.part(capsule(ax, y, 0.30, 0.46, 0.44 + flop, ear - 0.04, 0.05), s.accent * 0.4 + 0.5, 0.05, line=0.0)
    s.part(ellipse(x, y, 0, -0.46, w * 0.90, 0.44), s.accent, 0.22)
    s.part(ellipse(x, y, 0, -0.50, w * 0.66, 0.33), s.material, 0.12, s.shine, ornament=True)
    s.part(ellipse(x, y, 0, 0.20, w + 0.04, 0.42), s.accent, 0.24)
    s.part(ellipse(ax, y, 0.25, 0.12, 0.125, 0.15), rgb(250, 250, 255), 0.2, flat=True, line=0.02)
    s.part(ellipse(ax, y, 0.235, 0.10, 0.075, 0.105), INK, 0.1, flat=True, line=0.0)
    s.part(circle(x, y, -0.225, 0.16, 0.036), rgb(255, 255, 255), flat=True, line=0.0)
    s.part(circle(x, y, 0.27, 0.16, 0.036), rgb(255, 255, 255), flat=True, line=0.0)
    s.part(ellipse(x, y, 0, -0.04, 0.055, 0.035), INK, flat=True, line=0.0)
    return (0.0, 0.42, 0.135)


KINDS = {"blade": (blade, -42.0), "shield": (shield, 0.0), "flask": (flask, 0.0),
         "ring": (ring, 0.0), "helm": (helm, 0.0), "familiar": (familiar, 0.0)}


def paint_gem(s, name, x, y, place, grow):
    cx, cy, r = place
    r = r * (1.0 + 0.10 * grow)
    u, v = x - cx, y - cy
    colour = GEM[name]
    if name == "ruby":
        d = np.hypot(u, v) - r
    elif name == "sapphire":
        d = (np.abs(u) + np.abs(v)) * 0.78 - r * 0.92
    elif name == "emerald":
        d = np.maximum(np.maximum(np.abs(u), np.abs(v)), (np.abs(u) + np.abs(v)) * 0.74) - r * 0.90
    else:
        d = np.maximum(np.abs(u) * 0.87 + np.abs(v) * 0.5, np.abs(v)) - r
    s.blend(cover(d - 0.062), INK)
    s.blend(cover(d - 0.034), rgb(255, 224, 130))
    lx, ly = s.light
    facet = smooth(-0.03, 0.03, u * lx + v * ly)
    tone = 0.62 + 0.38 * facet
    core = smooth(r * 0.62, r * 0.50, np.maximum(np.abs(u), np.abs(v)))
    paint = colour * tone[..., None] + (core * 0.20)[..., None]
    s.blend(cover(d), np.clip(paint, 0, 1))
    gx, gy = u - lx * r * 0.42, v - ly * r * 0.42
    s.blend(smooth(0.065, 0.03, np.hypot(gx, gy)) * 0.95, rgb(255, 255, 255))
    star = np.minimum(np.abs(gx) + 7.0 * np.abs(gy), 7.0 * np.abs(gx) + np.abs(gy))
    s.add(smooth(0.30, 0.05, star) * 0.85, rgb(255, 255, 255))


def paint_wear(s, name, inside, x, y, place):
    p = 0.04 * place
    if name == "scratched":
        mark = np.zeros_like(x)
        for ax, ay, n in ((-0.45, -0.02, 0.40), (-0.08, -0.52, 0.48), (0.02, 0.16, 0.38), (-0.36, 0.38, 0.30)):
            mark = np.maximum(mark, cover(capsule(x, y, ax + p, ay, ax + p + n, ay + n * 0.75, 0.016)))
        s.blend(mark * inside * 0.85, rgb(255, 250, 240))
    elif name == "cracked":
        path = ((-0.10, 0.95), (0.10, 0.62), (-0.16, 0.36), (0.16, 0.02), (-0.14, -0.32), (0.12, -0.60), (-0.06, -0.95))
        d = np.full_like(x, 9.0)
        for (ax, ay), (bx, by) in zip(path, path[1:]):
            d = np.minimum(d, capsule(x, y, ax + p + 0.22, ay, bx + p + 0.22, by, 0.024))
        for ax, ay, bx, by in ((0.38, 0.02, 0.62, 0.16), (0.08, -0.32, -0.24, -0.42), (0.06, 0.36, -0.22, 0.44)):
            d = np.minimum(d, capsule(x, y, ax + p, ay, bx + p, by, 0.020))
        s.blend(cover(d - 0.022) * inside * 0.35, rgb(255, 255, 255))
        s.blend(cover(d) * inside, INK)
    elif name == "mossy":
        d = np.full_like(x, 9.0)
        for cx, cy, r in ((-0.42, -0.46, 0.22), (0.06, -0.68, 0.20), (0.40, -0.30, 0.17), (-0.38, 0.26, 0.17),
                          (0.24, 0.52, 0.19), (0.34, -0.74, 0.14), (-0.14, 0.66, 0.12)):
            d = np.minimum(d, circle(x, y, cx + p, cy, r))
        d = d + 0.035 * np.sin(x * 23.0) * np.sin(y * 21.0)
        s.blend(cover(d) * inside * 0.95, rgb(52, 92, 34))
        s.blend(cover(d + 0.065) * inside * 0.95, rgb(112, 158, 52))
        s.blend(cover(d + 0.14) * inside * 0.7, rgb(166, 204, 84))


def jittered(colour, amount, brightness):
    shift = np.array([amount, -0.4 * amount, -amount], np.float32) * 0.05
    return np.clip(colour * (1.0 + 0.07 * brightness) + shift, 0.0, 1.0).astype(np.float32)


def render(indices, latent):
    """One relic: uint8 array of IMAGE_SIZE x IMAGE_SIZE x 3. `latent` holds numbers in [-1, 1]."""
    z = np.array(latent, np.float32)
    if z.shape != (LATENT_LENGTH,):
        raise ValueError(f"latent has shape {z.shape}, wanted ({LATENT_LENGTH},)")
    z[2:5] *= 0.7
    kind, material, palette, ornament, gem, glow, wear, ground = (
        values[i] for (_, values, _), i in zip(TRAITS, indices))

    painter, base_tilt = KINDS[kind]
    angle = np.deg2rad(base_tilt + 3.5 * z[0])
    scale = 0.90 * (1.0 + 0.03 * z[1])
    xs, ys = (X - 0.018 * z[14]) / scale, (Y - 0.018 * z[15]) / scale
    x = np.cos(angle) * xs + np.sin(angle) * ys
    y = -np.sin(angle) * xs + np.cos(angle) * ys

    # The light stays in the upper left so that every relic of a collection sits in one scene.
    beam = np.deg2rad(128.0 + 16.0 * z[5])
    light = (float(np.cos(beam)), float(np.sin(beam)))
    accent = jittered(PALETTE[palette], z[7], z[8])
    body = textured(material, jittered(MATERIAL[material], z[6], z[8]), x, y).astype(np.float32)
    scene = Scene(backdrop(ground, float(z[13])).astype(np.float32), light, accent, body, SHINE[material], z[8])
    place = painter(scene, x, y, z)

    outline = scene.silhouette()
    solid = cover(outline)
    shadow = blurred(np.roll(solid, (8, 5), (0, 1)), 5.0)
    scene.blend(shadow * 0.42, rgb(10, 6, 18))
    rim = None
    if glow != "none":
        rim = GLOW[glow]
        reach = 1.0 + 0.16 * float(z[12])
        halo = blurred(cover(outline - 0.05 * reach), 9.0 * reach)
        scene.blend(np.clip(halo * 1.5, 0, 1) ** 1.2 * 0.92, rim)
        scene.blend(cover(outline - 0.085), rim * 0.45 + 0.55)
    scene.blend(cover(outline - 0.048), INK)
    scene.paint(ornament_field(ornament, x, y, float(z[10])), rim)
    paint_wear(scene, wear, smooth(0.0, -0.03, outline), x, y, float(z[11]))
    if gem != "none":
        paint_gem(scene, gem, x, y, place, float(z[9]))

    small = scene.canvas.reshape(IMAGE_SIZE, 2, IMAGE_SIZE, 2, 3).mean((1, 3))
    return np.clip(small * 255.0 + 0.5, 0, 255).astype(np.uint8)

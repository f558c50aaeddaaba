"""Procedural renderer of relics: signed distances, bevelled two-tone shading, outline, glow.

`render(indices, latent)` is a pure function of eight trait indices and sixteen numbers in
[-1, 1]. It draws at twice the final size with analytic anti-aliasing and halves the result.
It paints in shares of colours (see painting.py), which `shares` gives to the generators' training.

What the latent's numbers do: 0 tilt, 1 size, 2 width, 3 length, 4 curve, 5 light angle,
6 hue of the material, 7 hue of the palette, 8 brightness, 9 gem size, 10 depth of the ornament,
11 amount of wear, 12 reach of the glow, 13 phase of the background, 14 and 15 where the backdrop's light sits.

Fine details (engraving, cracks, scratches, stars) keep their place in the item's own frame, and the
latent changes how many there are and how deep they go: icons of one collection sit on one grid.
"""

import numpy as np

from painting import (ACCENT, GEM, GLOW, IMAGE_SIZE, INK, INNER, MATERIAL, OUTER, RADIUS, SOURCES, WHITE, Scene, X, Y, blurred,
                      box, capsule, circle, cover, distance_of, ellipse, mix, rgb, smooth, times)
from vocabulary import LATENT_LENGTH, TRAITS


def colour(*values):
    return np.array(values, np.float32) / 255.0


MATERIALS = {
    "steel": colour(158, 174, 196), "gold": colour(244, 190, 62), "obsidian": colour(66, 56, 88),
    "jade": colour(96, 196, 158), "wood": colour(156, 98, 54), "ivory": colour(240, 228, 202),
}
SHINE = {"steel": 0.75, "gold": 0.8, "obsidian": 0.9, "jade": 0.45, "wood": 0.12, "ivory": 0.25}
PALETTES = {
    "crimson": colour(208, 44, 58), "azure": colour(52, 122, 228), "emerald": colour(40, 164, 84),
    "amber": colour(244, 146, 36), "violet": colour(138, 72, 214), "rose": colour(246, 132, 182),
}
GEMS = {"ruby": colour(240, 36, 66), "sapphire": colour(44, 104, 250), "emerald": colour(34, 208, 96),
       "diamond": colour(226, 246, 255)}
GLOWS = {"golden": colour(255, 206, 84), "cyan": colour(70, 232, 255), "violet": colour(196, 92, 255),
        "verdant": colour(128, 255, 92)}
BACKGROUNDS = {
    "night": (colour(42, 54, 108), colour(14, 16, 42)), "ember": (colour(134, 52, 36), colour(44, 14, 16)),
    "forest": (colour(48, 98, 66), colour(14, 34, 28)), "dusk": (colour(232, 140, 122), colour(74, 44, 110)),
    "sand": (colour(226, 198, 146), colour(158, 118, 76)), "frost": (colour(214, 234, 246), colour(112, 152, 192)),
}


def backdrop(scene, name, phase, across, up):
    shade = smooth(0.1, 1.35, np.hypot(X * 0.95 - 0.16 * across, Y + 0.05 - 0.16 * up))
    if name == "dusk":
        shade = smooth(-0.7, 0.8, Y + 0.012 * phase)
    scene.shares[INNER], scene.shares[OUTER] = 1.0 - shade, shade
    p = 0.012 * phase
    if name == "night":
        stars = np.zeros_like(X)
        for number, (cx, cy, r) in enumerate((
                (-.72, .7, .055), (.66, .82, .042), (.82, .2, .05), (-.85, -.1, .042),
                (-.6, -.8, .05), (.72, -.68, .045), (.12, .88, .04), (-.3, .82, .035))):
            shine = 0.72 + 0.28 * phase * (-1) ** number
            star = np.maximum(np.abs(X - cx) + 3.0 * np.abs(Y - cy), 0) / r
            star = np.minimum(star, (3.0 * np.abs(X - cx) + np.abs(Y - cy)) / r)
            stars = np.maximum(stars, smooth(2.0, 0.8, star) * shine)
        scene.blend(stars * 0.9, WHITE)
    elif name == "ember":
        rays = smooth(-0.2, 0.2, np.cos(np.arctan2(Y + 0.1, X) * 10.0 + 6.0 * p))
        scene.blend(rays * smooth(0.1, 0.7, RADIUS) * 0.42, rgb(236, 110, 50))
    elif name == "forest":
        wave = np.sin((X + Y * 0.6 + p) * 11.0)
        scene.blend(smooth(0.1, 0.45, wave) * 0.30, rgb(110, 170, 84))
    elif name == "dusk":
        sun = smooth(0.86, 0.80, np.hypot(X, Y + 0.08 + p))
        scene.blend(sun * 0.36, rgb(255, 206, 150))
    elif name == "sand":
        wave = np.sin((Y + 0.09 * np.sin(X * 4.2 + 5.0 * p)) * 15.0 + 6.0 * p)
        scene.blend(smooth(0.1, 0.5, wave) * 0.30, rgb(142, 98, 60))
    else:
        u, v = np.abs(np.sin((X + Y + p) * 5.0)), np.abs(np.sin((X - Y) * 5.0))
        scene.blend(smooth(0.24, 0.10, np.minimum(u, v)) * 0.62, WHITE)
    scene.shares *= 1.0 - 0.5 * smooth(0.86, 1.5, RADIUS)


def ornament_field(name, x, y):
    """Coverage of the engraved pattern, of strokes three to five pixels wide; None for a plain item."""
    if name == "bands":
        return smooth(-0.2, 0.2, np.sin(y * 18.0))
    if name == "dots":
        p = 0.31
        u = (x / p + 0.5) % 1.0 - 0.5
        v = (y / p + 0.5) % 1.0 - 0.5
        return smooth(0.42, 0.30, np.hypot(u, v))
    if name == "chevrons":
        return smooth(-0.2, 0.2, np.sin((y - np.abs(x)) * 15.0) - 0.1)
    if name == "lattice":
        u, v = np.abs(np.sin((x + y) * 8.0)), np.abs(np.sin((x - y) * 8.0))
        return smooth(0.52, 0.32, np.minimum(u, v))
    return None


def engraving_place(kind, x, y):
    """Where an engraving's pattern runs: around the ring, along the axes of every other kind."""
    if kind == "ring":
        return np.hypot(x, y - RING_UP) - RING_RADIUS, np.arctan2(x, RING_UP - y) * RING_RADIUS
    return x, y


def textured(name, x, y):
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
    return mix(MATERIAL, 1.0 + grain)


def blade(s, x, y, z):
    w, top = 0.27 + 0.03 * z[2], 1.00 + 0.05 * z[3]
    bend = 0.10 * z[4] * (y - 0.1) ** 2
    xb = x - bend
    taper = w * np.clip((top - y) / 0.42, 0.0, 1.0) ** 0.6
    steel = np.maximum(np.maximum(distance_of(np.abs(xb) - taper), -0.40 - y), y - top)
    s.part(capsule(x, y, 0, -0.46, 0, -0.86, 0.075), mix(ACCENT), 0.09)
    s.part(circle(x, y, 0, -0.92, 0.115 + 0.02 * z[2]), s.material, 0.12, s.shine)
    s.part(steel, s.material, 0.20, s.shine, ornament=True)
    g = 0.36 + 0.05 * z[2]
    rise = 0.10 + 0.10 * z[4]
    guard = np.minimum(capsule(x, y, 0, -0.42, g, -0.42 + rise, 0.095),
                       capsule(x, y, 0, -0.42, -g, -0.42 + rise, 0.095))
    s.part(guard, mix(ACCENT), 0.10)
    return (0.0, -0.38, 0.17)


def shield(s, x, y, z):
    w, low = 0.66 + 0.05 * z[2], 0.92 + 0.06 * z[3]
    arch = 0.72 + (0.08 + 0.06 * z[4]) * np.cos(x * 4.6)
    side = np.where(y > 0.12, w, w * np.sqrt(np.clip(1.0 - ((0.12 - y) / low) ** 2, 0.0, 1.0)) ** 1.25)
    outer = distance_of(np.maximum(np.abs(x) - side, y - arch))
    outer = np.maximum(outer, 0.16 - low - y)
    s.part(outer, s.material, 0.11, s.shine)
    s.part(outer + 0.15, mix(ACCENT), 0.30, ornament=False)
    band = np.maximum(np.abs(x) - 0.34 - 0.02 * z[2], outer + 0.15)
    s.part(band, s.material, 0.12, s.shine, ornament=True, line=0.02)
    return (0.0, 0.10, 0.19)


def flask(s, x, y, z):
    r = 0.55 + 0.03 * z[2]
    neck = 0.60 + 0.06 * z[3]
    bulb = circle(x, y, 0, -0.26, r)
    tube = box(x, y, 0, 0.32, 0.17, 0.30)
    glass = np.minimum(bulb, tube)
    level = -0.02 + 0.10 * z[4] + 0.03 * np.sin(x * 6.0)
    wet = smooth(-0.02, 0.02, level - y)
    dry = 1.0 - wet
    s.part(glass, mix(ACCENT, 0.35 * dry + wet, 0.55 * dry + smooth(0.035, 0.0, np.abs(level - y)) * 0.35), 0.24, 0.8)
    strap = np.maximum(np.abs(y + 0.30) - 0.25, bulb - 0.02)
    s.part(strap, s.material, 0.10, s.shine, ornament=True, line=0.022)
    s.part(box(x, y, 0, neck - 0.30, 0.23, 0.075, 0.05), s.material, 0.08, s.shine)
    s.part(box(x, y, 0, neck + 0.08, 0.25, 0.09, 0.06), s.material, 0.09, s.shine)
    s.part(box(x, y, 0, -0.80, 0.34, 0.085, 0.06), s.material, 0.09, s.shine)
    return (0.0, -0.30, 0.16)


RING_RADIUS, RING_UP = 0.47, -0.14


def ring(s, x, y, z):
    r, t = RING_RADIUS + 0.03 * z[2], 0.185 + 0.015 * z[4]
    cy = RING_UP
    sq = 1.0 + 0.06 * z[3]
    cushion = distance_of(ellipse(x, y, 0, -0.72, 0.74, 0.25))
    s.part(cushion, mix(ACCENT), 0.20)
    d = np.hypot(x, (y - cy) * sq)
    band = np.abs(d - r) - t
    s.part(band, s.material, 0.13, s.shine, ornament=True)
    s.part(np.abs(d - r + t + 0.005) - 0.030, mix(ACCENT), 0.05, line=0.0)
    s.part(box(x, y, 0, 0.44, 0.25, 0.15, 0.08), mix(ACCENT), 0.12)
    s.part(ellipse(x, y, 0, 0.50, 0.255, 0.235), s.material, 0.10, s.shine)
    return (0.0, 0.52, 0.185)


def helm(s, x, y, z):
    w = 0.56 + 0.04 * z[2]
    h = 0.02 + 0.06 * z[3]
    sway = 0.12 * z[4]
    plume = np.minimum(capsule(x, y, 0.0, 0.58 + h, 0.10 + sway, 0.76 + h, 0.15),
                       capsule(x, y, 0.10 + sway, 0.76 + h, 0.46 + sway, 0.62 + h, 0.145))
    plume = np.minimum(plume, capsule(x, y, 0.46 + sway, 0.62 + h, 0.66 + sway, 0.34 + h, 0.10))
    s.part(plume, mix(ACCENT), 0.14)
    dome = ellipse(x, y, 0, 0.08, w, 0.56 + h)
    skirt = box(x, y, 0, -0.34, w, 0.42, 0.16)
    shell = np.minimum(np.where(y > 0.05, dome, 9.0), np.where(y <= 0.05, skirt, 9.0))
    s.part(distance_of(shell), s.material, 0.24, s.shine, ornament=True)
    s.part(box(x, y, 0, -0.02, w + 0.05, 0.085, 0.05), mix(ACCENT), 0.09)
    slit = np.minimum(box(x, y, 0, -0.25, w - 0.13, 0.075, 0.06), box(x, y, 0, -0.52, 0.075, 0.27, 0.06))
    s.part(slit, times(INK, 0.9), 0.1, 0.0, flat=True, line=0.0)
    return (0.0, 0.22, 0.16)


def familiar(s, x, y, z):
    w = 0.52 + 0.04 * z[2]
    ear = 0.80 + 0.10 * z[3]
    flop = 0.10 * z[4]
    ax = np.abs(x)
    ears = capsule(ax, y, 0.26, 0.40, 0.46 + flop, ear, 0.125)
    s.part(capsule(x, y, 0.30, -0.66, 0.74, -0.40 + 0.12 * z[4], 0.12), mix(ACCENT), 0.12)
    s.part(ears, mix(ACCENT), 0.12)
    s.part(capsule(ax, y, 0.30, 0.46, 0.44 + flop, ear - 0.04, 0.05), mix(ACCENT, 0.4, 0.5), 0.05, line=0.0)
    s.part(ellipse(x, y, 0, -0.46, w * 0.90, 0.44), mix(ACCENT), 0.22)
    s.part(ellipse(x, y, 0, -0.48, w * 0.74, 0.37), s.material, 0.12, s.shine, ornament=True)
    s.part(ellipse(x, y, 0, 0.20, w + 0.04, 0.42), mix(ACCENT), 0.24)
    s.part(ellipse(ax, y, 0.25, 0.12, 0.125, 0.15), rgb(250, 250, 255), 0.2, flat=True, line=0.02)
    s.part(ellipse(ax, y, 0.235, 0.10, 0.075, 0.105), INK, 0.1, flat=True, line=0.0)
    s.part(circle(x, y, -0.225, 0.16, 0.036), WHITE, flat=True, line=0.0)
    s.part(circle(x, y, 0.27, 0.16, 0.036), WHITE, flat=True, line=0.0)
    s.part(ellipse(x, y, 0, -0.04, 0.055, 0.035), INK, flat=True, line=0.0)
    return (0.0, 0.42, 0.135)


KINDS = {"blade": (blade, -42.0), "shield": (shield, 0.0), "flask": (flask, 0.0),
         "ring": (ring, 0.0), "helm": (helm, 0.0), "familiar": (familiar, 0.0)}


def paint_gem(s, name, x, y, place, grow):
    cx, cy, r = place
    r = r * (1.0 + 0.10 * grow)
    u, v = x - cx, y - cy
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
    s.blend(cover(d), mix(GEM, tone, core * 0.20))
    gx, gy = u - lx * r * 0.42, v - ly * r * 0.42
    s.blend(smooth(0.065, 0.03, np.hypot(gx, gy)) * 0.95, WHITE)
    star = np.minimum(np.abs(gx) + 7.0 * np.abs(gy), 7.0 * np.abs(gx) + np.abs(gy))
    s.blend(smooth(0.30, 0.05, star) * 0.85, WHITE)


def paint_wear(s, name, inside, x, y, amount):
    """`amount` in [-1, 1]: the later marks of a list fade in as it grows."""
    def strength(number, count):
        start = 2.2 * number / count - 1.6
        return float(smooth(start, start + 0.9, amount))
    if name == "scratched":
        mark = np.zeros_like(x)
        scratches = ((-0.45, -0.02, 0.40), (-0.08, -0.52, 0.48), (0.02, 0.16, 0.38), (-0.36, 0.38, 0.30))
        for number, (ax, ay, n) in enumerate(scratches):
            line = cover(capsule(x, y, ax, ay, ax + n, ay + n * 0.75, 0.026))
            mark = np.maximum(mark, line * (0.55 + 0.45 * strength(number, len(scratches))))
        s.blend(mark * inside * 0.9, rgb(255, 250, 240))
    elif name == "cracked":
        path = ((0.12, 0.95), (0.32, 0.62), (0.06, 0.36), (0.38, 0.02), (0.08, -0.32), (0.34, -0.60), (0.16, -0.95))
        branches = ((0.38, 0.02, 0.62, 0.16), (0.08, -0.32, -0.24, -0.42), (0.06, 0.36, -0.22, 0.44))
        d = np.full_like(x, 9.0)
        for (ax, ay), (bx, by) in zip(path, path[1:]):
            d = np.minimum(d, capsule(x, y, ax, ay, bx, by, 0.028))
        light, dark = cover(d - 0.03), cover(d)
        for number, (ax, ay, bx, by) in enumerate(branches):
            branch, share = capsule(x, y, ax, ay, bx, by, 0.024), strength(number, len(branches))
            light, dark = np.maximum(light, share * cover(branch - 0.03)), np.maximum(dark, share * cover(branch))
        s.blend(light * inside * 0.6, WHITE)
        s.blend(dark * inside, INK)
    elif name == "mossy":
        d = np.full_like(x, 9.0)
        # Between them every kind shows enough of its engraving.
        patches = ((-0.44, -0.66, 0.19), (0.08, -0.74, 0.17), (0.42, -0.06, 0.15), (-0.38, 0.26, 0.17),
                   (0.24, 0.52, 0.18), (0.34, -0.74, 0.14), (-0.14, 0.66, 0.12))
        for cx, cy, r in patches:
            d = np.minimum(d, circle(x, y, cx, cy, r))
        d = d + 0.035 * np.sin(x * 23.0) * np.sin(y * 21.0) - 0.03 * amount
        s.blend(cover(d) * inside * 0.95, rgb(52, 92, 34))
        s.blend(cover(d + 0.065) * inside * 0.95, rgb(112, 158, 52))
        s.blend(cover(d + 0.14) * inside * 0.7, rgb(166, 204, 84))


def jittered(colour, amount, brightness):
    shift = np.array([amount, -0.4 * amount, -amount], np.float32) * 0.08
    return np.clip(colour * (1.0 + 0.10 * brightness) + shift, 0.0, 1.0).astype(np.float32)


def values_of(indices, latent):
    z = np.array(latent, np.float32)
    if z.shape != (LATENT_LENGTH,):
        raise ValueError(f"latent has shape {z.shape}, wanted ({LATENT_LENGTH},)")
    z[2:5] *= 0.7
    return [values[i] for (_, values, _), i in zip(TRAITS, indices)], z


def colours(indices, latent):
    """The colour of every source in this picture, in the order of SOURCES; black where it has none."""
    (_, material, palette, _, gem, glow, _, ground), z = values_of(indices, latent)
    none = np.zeros(3, np.float32)
    return np.stack([jittered(MATERIALS[material], z[6], z[8]), jittered(PALETTES[palette], z[7], z[8]), GEMS.get(gem, none),
                     GLOWS.get(glow, none), *BACKGROUNDS[ground], *np.eye(3, dtype=np.float32)])


def shares(indices, latent):
    """How much of every source each pixel shows: IMAGE_SIZE x IMAGE_SIZE x len(SOURCES), about 0 to 1.3."""
    (kind, material, _, ornament, gem, glow, wear, ground), z = values_of(indices, latent)
    painter, base_tilt = KINDS[kind]
    angle = np.deg2rad(base_tilt + 1.2 * z[0])
    scale = 0.90 * (1.0 + 0.012 * z[1])
    xs, ys = X / scale, Y / scale
    x = np.cos(angle) * xs + np.sin(angle) * ys
    y = -np.sin(angle) * xs + np.cos(angle) * ys

    # The light stays in the upper left so that every relic of a collection sits in one scene.
    beam = np.deg2rad(128.0 + 24.0 * z[5])
    light = (float(np.cos(beam)), float(np.sin(beam)))
    # Engravings in a dark material are light, in any other dark.
    dark = float(MATERIALS[material].mean()) < 0.42
    scene = Scene(light, textured(material, x, y), SHINE[material], dark)
    backdrop(scene, ground, *(float(v) for v in z[13:16]))
    place = painter(scene, x, y, z)

    outline = scene.silhouette()
    solid = cover(outline)
    shadow = blurred(np.roll(solid, (8, 5), (0, 1)), 5.0)
    scene.blend(shadow * 0.42, rgb(10, 6, 18))
    if glow != "none":
        reach = 1.0 + 0.16 * float(z[12])
        halo = blurred(cover(outline - 0.05 * reach), 9.0 * reach)
        scene.blend(np.clip(halo * 1.5, 0, 1) ** 1.2 * 0.92, mix(GLOW))
        scene.blend(cover(outline - 0.085), mix(GLOW, 0.45, 0.55))
    scene.blend(cover(outline - 0.048), INK)
    scene.paint(ornament_field(ornament, *engraving_place(kind, x, y)), 0.86 + 0.14 * float(z[10]), glow != "none")
    paint_wear(scene, wear, smooth(0.0, -0.03, outline), x, y, float(z[11]))
    if gem != "none":
        paint_gem(scene, gem, x, y, place, float(z[9]))
    return scene.shares.reshape(len(SOURCES), IMAGE_SIZE, 2, IMAGE_SIZE, 2).mean((2, 4)).transpose(1, 2, 0)


def mixed(shown, indices, latent):
    """The picture that shares make: uint8, IMAGE_SIZE x IMAGE_SIZE x 3."""
    return np.clip(shown @ colours(indices, latent) * 255.0 + 0.5, 0, 255).astype(np.uint8)


def render(indices, latent):
    """One relic: uint8 array of IMAGE_SIZE x IMAGE_SIZE x 3. `latent` holds numbers in [-1, 1]."""
    return mixed(shares(indices, latent), indices, latent)

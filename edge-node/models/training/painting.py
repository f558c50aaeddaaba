"""What the renderer paints with: distances, coverage, and scenes whose colours are mixed last.

A scene is painted in shares: each pixel holds how much of every colour in SOURCES it shows. Layers are
blended in shares, and the picture is the shares times the colours that traits and latent give the item.
The generators learn the shares too: they depend on far fewer traits than the picture does.
"""

import numpy as np
from PIL import Image, ImageFilter

from vocabulary import IMAGE_SIZE

SIZE = 2 * IMAGE_SIZE
PIXEL = np.float32(2.0 / SIZE)
_axis = (np.arange(SIZE, dtype=np.float32) + 0.5) * PIXEL - 1.0
X, Y = np.meshgrid(_axis, -_axis)
RADIUS = np.sqrt(X * X + Y * Y)

SOURCES = ("material", "accent", "gem", "glow", "inner", "outer", "red", "green", "blue")
MATERIAL, ACCENT, GEM, GLOW, INNER, OUTER, RED, GREEN, BLUE = range(len(SOURCES))


def mix(source, share=1.0, white=0.0):
    """A paint: `share` of a source's colour and `white` of white, each a number or a field."""
    return {source: share, RED: white, GREEN: white, BLUE: white}


def rgb(red, green, blue):
    """A paint of a fixed colour, given in steps of 255."""
    return {RED: red / 255.0, GREEN: green / 255.0, BLUE: blue / 255.0}


def times(paint, factor):
    return {source: share * factor for source, share in paint.items()}


def plus(paint, other):
    return {source: paint.get(source, 0.0) + other.get(source, 0.0) for source in {**paint, **other}}


WHITE = rgb(255, 255, 255)
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


def blurred(mask, radius):
    small = Image.fromarray((np.clip(mask, 0, 1) * 255).astype(np.uint8))
    return np.asarray(small.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255.0


class Scene:
    """One picture being painted: shares of every source, light, and the silhouette of the item so far."""

    def __init__(self, light, material, shine, dark):
        self.shares = np.zeros((len(SOURCES), SIZE, SIZE), np.float32)
        self.light = light
        self.material, self.shine, self.dark = material, shine, dark
        self.layers = []

    def part(self, distance, paint, bevel=0.16, shine=0.2, ornament=False, flat=False, line=0.028):
        self.layers.append((distance.astype(np.float32), paint, bevel, shine, ornament, flat, line))

    def silhouette(self):
        out = self.layers[0][0]
        for layer in self.layers[1:]:
            out = np.minimum(out, layer[0])
        return out

    def paint(self, ornament, engraving, glowing):
        lx, ly = self.light
        for distance, paint, bevel, shine, ornamented, flat, line in self.layers:
            if line:
                self.blend(cover(distance - line) * 0.92, INK)
            if ornamented and ornament is not None:
                inside = smooth(-0.045, -0.075, distance) * ornament * engraving
                if self.dark:
                    paint = plus(times(paint, 1.0 - 0.6 * inside), times(WHITE, 0.62 * inside))
                else:
                    paint = times(paint, 1.0 - 0.74 * inside)
            if not flat:
                gy, gx = np.gradient(distance, PIXEL)
                gy = -gy
                depth = np.clip(1.0 + distance / bevel, 0.0, 1.0)
                facing = (gx * lx + gy * ly) * depth * 0.9
                body = 0.80 + 0.26 * smooth(-0.10, 0.16, facing) + 0.16 * smooth(0.42, 0.62, facing)
                body = body - 0.34 * smooth(0.12, 0.52, -facing)
                body = body + 0.10 * (X * lx + Y * ly)
                paint = plus(times(paint, body), times(WHITE, shine * smooth(0.60, 0.80, facing) * 0.75))
                if glowing:
                    paint = plus(paint, mix(GLOW, 0.5 * smooth(0.45, 0.9, depth) * smooth(0.1, 0.6, -facing)))
            self.blend(cover(distance), paint)

    def blend(self, alpha, paint):
        self.shares *= 1.0 - alpha
        for source, share in paint.items():
            self.shares[source] += alpha * share

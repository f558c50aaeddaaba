"""Kinds of damage: those that the auditor is trained on, and others that it meets only in the report.

A kind takes a corruption.Source and returns the damaged picture; a join of pictures returns also
the region that came from elsewhere, since its edge is the evidence.
"""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from corruption import VISIBLE_PIXELS, VISIBLE_STEP

SIZE = 64
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE]
CENTRE = (SIZE - 1) / 2


def picture(array):
    return Image.fromarray(np.clip(array + 0.5, 0, 255).astype(np.uint8))


def join(image, other, region):
    return np.where(region[..., None], other, image), region


def region_of(random):
    """A part of the picture: a half plane at any angle, a rectangle or an ellipse."""
    shape = random.integers(0, 3)
    if shape == 0:
        angle = random.uniform(0, 2 * np.pi)
        return (COLUMNS - CENTRE) * np.cos(angle) + (ROWS - CENTRE) * np.sin(angle) > random.uniform(-12, 12)
    height, width = random.uniform(8, 20, 2)
    y, x = random.uniform(16, 48, 2)
    if shape == 1:
        return (np.abs(ROWS - y) < height) & (np.abs(COLUMNS - x) < width)
    return np.hypot((ROWS - y) / height, (COLUMNS - x) / width) < 1


# --- trained on -----------------------------------------------------------------------------

def noise(s):
    return s.image + s.random.normal(0, s.random.uniform(16, 60), s.image.shape)


def occlusion(s):
    """A plain rectangle, or one from another picture."""
    h, w = s.random.integers(12, 36, 2)
    top, left = s.random.integers(0, SIZE - h + 1), s.random.integers(0, SIZE - w + 1)
    region = (ROWS >= top) & (ROWS < top + h) & (COLUMNS >= left) & (COLUMNS < left + w)
    if s.random.random() < 0.5:
        return join(s.image, s.other, region)
    return np.where(region[..., None], s.random.integers(0, 256, 3), s.image)


def stripes(s):
    period, width = s.random.integers(4, 14), s.random.integers(1, 4)
    lines = (np.arange(SIZE) + s.random.integers(0, period)) % period < width
    mask = (lines[:, None] if s.random.random() < 0.5 else lines[None, :]) * s.random.uniform(0.45, 1.0)
    return s.image + mask[..., None] * (s.random.integers(0, 256, 3) - s.image)


CHANNEL_ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def channel_swap(s):
    return s.image[..., CHANNEL_ORDERS[s.random.integers(0, 5)]]


def shift(s):
    """Moved over the edge and in again at the other side."""
    amount, axis = int(s.random.integers(8, 57)), int(s.random.integers(0, 2))
    return np.roll(s.image, amount, axis), (ROWS, COLUMNS)[axis] < amount


def colour_cast(s):
    gain = s.random.uniform(0.45, 1.0, 3)
    gain[s.random.integers(0, 3)] = s.random.uniform(1.15, 1.5)
    gain[s.random.integers(0, 3)] = s.random.uniform(0.3, 0.55)
    return s.image * gain


def blend(s):
    share = s.random.uniform(0.3, 0.7)
    return s.image * (1 - share) + s.other * share


def wrong_background(s):
    """Another picture, or one colour, behind the item's middle."""
    inside = np.clip(s.random.uniform(14, 24) - np.hypot(ROWS - CENTRE, COLUMNS - CENTRE) + 0.5, 0, 1)[..., None]
    if s.random.random() < 0.5:
        return s.image * inside + s.other * (1 - inside), inside[..., 0] < 0.5
    return s.image * inside + s.random.integers(0, 256, 3) * (1 - inside)


def recompression(s):
    held = io.BytesIO()
    picture(s.image).save(held, "JPEG", quality=int(s.random.integers(4, 22)))
    return np.asarray(Image.open(held), np.float32)


def blur(s):
    return np.asarray(picture(s.image).filter(ImageFilter.GaussianBlur(s.random.uniform(1.2, 3.0))), np.float32)


def cut(s):
    """Two halves of two items."""
    place = (ROWS, COLUMNS)[s.random.integers(0, 2)]
    return join(s.image, s.other, place >= s.random.integers(18, 47))


def conflict(s):
    """One item with the traits of two: a part is its twin's, of which one or two traits are altered.

    Both parts show what differs; were all of it in one part, the picture would be one sound item's.
    """
    differs = np.abs(s.image - s.twin).max(2) > VISIBLE_STEP
    for _ in range(8):
        region = region_of(s.random)
        if min((differs & region).sum(), (differs & ~region).sum()) >= VISIBLE_PIXELS:
            return join(s.image, s.twin, region)
    return s.image


def recoloured(s):
    """A part of the item in another hue, as an altered copy of an existing item would be."""
    hue, saturation, value = picture(s.image).convert("HSV").split()
    turned = np.asarray(hue).astype(np.int32) + int(s.random.integers(40, 217))
    parts = (Image.fromarray((turned % 256).astype(np.uint8)), saturation, value)
    return join(s.image, np.asarray(Image.merge("HSV", parts).convert("RGB"), np.float32), region_of(s.random))


def partial(s):
    """Another kind in a part of the picture only."""
    kind = (noise, stripes, channel_swap, colour_cast, recompression)[s.random.integers(0, 5)]
    return np.where(region_of(s.random)[..., None], kind(s), s.image)


def smooth_field(random, size):
    """Low-frequency noise in three channels, from 0 to 255."""
    small = random.uniform(0, 255, (size, size, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((SIZE, SIZE), Image.BICUBIC), np.float32)


def foreign(s):
    """From outside the domain: fields of noise, or flat shapes on a flat ground."""
    if s.random.random() < 0.4:
        return smooth_field(s.random, int(s.random.integers(3, 20)))
    canvas = Image.new("RGB", (SIZE, SIZE), tuple(map(int, s.random.integers(0, 256, 3))))
    pen = ImageDraw.Draw(canvas)
    for _ in range(s.random.integers(2, 9)):
        points = [tuple(map(int, point)) for point in s.random.integers(-8, 72, (int(s.random.integers(2, 6)), 2))]
        colour = tuple(map(int, s.random.integers(0, 256, 3)))
        if len(points) == 2:
            low, high = np.sort(np.array(points), 0)
            pen.ellipse([*map(int, low), *map(int, high)], fill=colour)
        else:
            pen.polygon(points, fill=colour)
    return np.asarray(canvas, np.float32)


# --- never trained on -----------------------------------------------------------------------

def pixelation(s):
    size = SIZE // int(s.random.choice((3, 4, 6, 8)))
    return np.asarray(picture(s.image).resize((size, size), Image.BOX).resize((SIZE, SIZE), Image.NEAREST), np.float32)


def tile_shuffle(s):
    tiles = s.image.reshape(4, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4).reshape(16, 16, 16, 3)
    tiles = tiles[s.random.permutation(16)].reshape(4, 4, 16, 16, 3)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(SIZE, SIZE, 3)


def negative(s):
    return 255.0 - s.image


def salt_and_pepper(s):
    out = s.image.copy()
    where = s.random.random((SIZE, SIZE)) < s.random.uniform(0.03, 0.2)
    out[where] = s.random.choice((0.0, 255.0), (where.sum(), 1))
    return out


def upside_down(s):
    return s.image[::-1]


def mirrored_half(s):
    """One half is the other's mirror image."""
    out = s.image if s.random.random() < 0.5 else s.image[:, ::-1]
    if s.random.random() < 0.5:
        out = out.transpose(1, 0, 2)
        return np.concatenate([out[:, :32], out[:, 31::-1]], 1).transpose(1, 0, 2)
    return np.concatenate([out[:, :32], out[:, 31::-1]], 1)


def foreign_gem(s):
    """A small round part of another item pasted somewhere on this one, with a soft edge."""
    y, x = s.random.uniform(14, 50, 2)
    share = np.clip(s.random.uniform(6, 9) - np.hypot(ROWS - y, COLUMNS - x) + 1.0, 0, 2)[..., None] / 2
    away = np.roll(s.other, s.random.integers(-10, 11, 2), (0, 1))
    return s.image * (1 - share) + away * share, share[..., 0] > 0.5


def sampled(image, rows, columns):
    """The picture read at fractional places, bilinear."""
    rows, columns = np.clip(rows, 0, SIZE - 1.001), np.clip(columns, 0, SIZE - 1.001)
    top, left = rows.astype(int), columns.astype(int)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def swirl(s):
    y, x = ROWS - CENTRE, COLUMNS - CENTRE
    angle = s.random.choice((-1, 1)) * s.random.uniform(0.8, 2.0) * np.exp(-np.hypot(x, y) / s.random.uniform(12, 24))
    return sampled(s.image, CENTRE + y * np.cos(angle) + x * np.sin(angle), CENTRE + x * np.cos(angle) - y * np.sin(angle))


def ripple(s):
    """Every row is moved along a wave."""
    wave = s.random.uniform(2.0, 4.0) * np.sin(ROWS * s.random.uniform(0.25, 0.8) + s.random.uniform(0, 6.28))
    return sampled(s.image, ROWS.astype(float), COLUMNS + wave)


def posterised(s):
    step = 255.0 / int(s.random.integers(1, 4))
    return np.round(s.image / step) * step


def local_blur(s):
    soft = np.asarray(picture(s.image).filter(ImageFilter.GaussianBlur(s.random.uniform(2.0, 4.0))), np.float32)
    y, x = s.random.uniform(20, 44, 2)
    near = np.clip((s.random.uniform(10, 18) - np.hypot(ROWS - y, COLUMNS - x)) / 3, 0, 1)[..., None]
    return s.image * (1 - near) + soft * near


def moire(s):
    angle, pitch = s.random.uniform(0, np.pi), s.random.uniform(0.7, 2.2)
    wave = np.sin((COLUMNS * np.cos(angle) + ROWS * np.sin(angle)) * pitch)
    return s.image * (1 + s.random.uniform(0.2, 0.5) * wave)[..., None]


def ghost(s):
    """A faint second copy beside the item."""
    moved = np.roll(s.image, s.random.choice((-1, 1), 2) * s.random.integers(4, 12, 2), (0, 1))
    share = s.random.uniform(0.3, 0.5)
    return s.image * (1 - share) + moved * share


def lost_rows(s):
    """Rows of a stretch repeat the last one that arrived."""
    out, at = s.image.copy(), int(s.random.integers(16, 44))
    out[at:at + int(s.random.integers(8, 20))] = out[at]
    return out


def gradient(s):
    angle, low, high = s.random.uniform(0, 2 * np.pi), *s.random.uniform(0, 255, (2, 3))
    along = ((COLUMNS - CENTRE) * np.cos(angle) + (ROWS - CENTRE) * np.sin(angle)) / 90 + 0.5
    return low + (high - low) * along[..., None]


def text(s):
    canvas = Image.new("RGB", (SIZE, SIZE), tuple(map(int, s.random.integers(0, 256, 3))))
    pen, ink = ImageDraw.Draw(canvas), tuple(map(int, s.random.integers(0, 256, 3)))
    for row in range(2, SIZE, 11):
        pen.text((2, row), "".join(chr(int(c)) for c in s.random.integers(65, 122, 11)), fill=ink)
    return np.asarray(canvas, np.float32)


def landscape(s):
    """Fractal noise between a sky and a ground, like a photograph's statistics."""
    field = sum(smooth_field(s.random, 2 ** k)[..., :1] * 0.55 ** k for k in range(1, 6))
    field = (field - field.min()) / np.ptp(field)
    sky, ground = s.random.uniform(90, 255, 3), s.random.uniform(20, 160, 3)
    return sky + (ground - sky) * np.clip(ROWS[..., None] / SIZE - 0.4 + 0.7 * field, 0, 1)


def named(*kinds):
    return {kind.__name__: kind for kind in kinds}


SEEN = named(noise, occlusion, stripes, channel_swap, shift, colour_cast, blend, wrong_background, recompression,
             blur, cut, conflict, recoloured, partial, foreign)
UNSEEN = named(pixelation, tile_shuffle, negative, salt_and_pepper, upside_down, mirrored_half, foreign_gem, swirl,
               ripple, posterised, local_blur, moire, ghost, lost_rows, gradient, text, landscape)

"""Kinds of damage: those the auditor is trained on, and others that it meets only in the report."""

import io

import numpy as np
from PIL import Image, ImageFilter


def noise(image, other, source):
    sigma = source.uniform(14, 60)
    return image + source.normal(0, sigma, image.shape)


def occlusion(image, other, source):
    out = image.copy()
    h, w = source.integers(14, 36, 2)
    top, left = source.integers(4, 60 - h), source.integers(4, 60 - w)
    out[top:top + h, left:left + w] = source.integers(0, 256, 3) if source.random() < 0.6 else other[top:top + h, left:left + w]
    return out


def stripes(image, other, source):
    period, width = source.integers(4, 14), source.integers(1, 4)
    lines = (np.arange(64) + source.integers(0, period)) % period < width
    mask = lines[:, None] if source.random() < 0.5 else lines[None, :]
    mask = np.broadcast_to(mask, (64, 64))[..., None]
    strength = source.uniform(0.45, 1.0)
    return image + mask * strength * (source.integers(0, 256, 3) - image)


CHANNEL_ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def channel_swap(image, other, source):
    return image[..., CHANNEL_ORDERS[source.integers(0, 5)]]


def shift(image, other, source):
    amount = source.integers(10, 33) * source.choice((-1, 1))
    return np.roll(image, amount, source.integers(0, 2))


def colour_cast(image, other, source):
    gain = source.uniform(0.45, 1.0, 3)
    gain[source.integers(0, 3)] = source.uniform(1.15, 1.5)
    gain[source.integers(0, 3)] = source.uniform(0.3, 0.55)
    return image * gain


def blend(image, other, source):
    share = source.uniform(0.3, 0.6)
    return image * (1 - share) + other * share


def wrong_background(image, other, source):
    """Another picture behind the item's middle: the join is the evidence."""
    y, x = np.mgrid[0:64, 0:64] - 31.5
    radius = source.uniform(15, 22)
    inside = np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)[..., None]
    ground = other if source.random() < 0.5 else np.broadcast_to(source.integers(0, 256, 3), image.shape)
    return image * inside + ground * (1 - inside)


def recompression(image, other, source):
    held = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(held, "JPEG", quality=int(source.integers(4, 28)))
    return np.asarray(Image.open(held), np.float32)


def blur(image, other, source):
    soft = Image.fromarray(image.astype(np.uint8)).filter(ImageFilter.GaussianBlur(source.uniform(1.2, 3.0)))
    return np.asarray(soft, np.float32)


def cut(image, other, source):
    """Two halves of two items."""
    at = source.integers(22, 43)
    out = image.copy()
    if source.random() < 0.5:
        out[at:] = other[at:]
    else:
        out[:, at:] = other[:, at:]
    return out


# Never trained on.
def pixelation(image, other, source):
    size = 64 // int(source.choice((4, 8)))
    small = Image.fromarray(image.astype(np.uint8)).resize((size, size), Image.BOX)
    return np.asarray(small.resize((64, 64), Image.NEAREST), np.float32)


def tile_shuffle(image, other, source):
    tiles = image.reshape(4, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4).reshape(16, 16, 16, 3)
    tiles = tiles[source.permutation(16)].reshape(4, 4, 16, 16, 3)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(64, 64, 3)


def negative(image, other, source):
    return 255.0 - image


def salt_and_pepper(image, other, source):
    out = image.copy()
    where = source.random((64, 64)) < source.uniform(0.05, 0.2)
    out[where] = source.choice((0.0, 255.0), (where.sum(), 1))
    return out


def upside_down(image, other, source):
    return image[::-1]


SEEN = {f.__name__: f for f in (noise, occlusion, stripes, channel_swap, shift, colour_cast, blend,
                                wrong_background, recompression, blur, cut)}
UNSEEN = {f.__name__: f for f in (pixelation, tile_shuffle, negative, salt_and_pepper, upside_down)}


def damage(images, kinds, seed):
    """Damages every image by a kind drawn from `kinds`; returns uint8 images and the kinds' names."""
    source = np.random.default_rng(seed)
    names = [list(kinds)[i] for i in source.integers(0, len(kinds), len(images))]
    out = np.empty(images.shape, np.uint8)
    for i, name in enumerate(names):
        other = images[source.integers(0, len(images))].astype(np.float32)
        damaged = kinds[name](images[i].astype(np.float32), other, source)
        out[i] = np.clip(damaged + 0.5, 0, 255).astype(np.uint8)
    return out, np.array(names)

"""Puts many small images into one large one."""

import numpy as np
from PIL import Image


def sheet(images, columns, scale=2, gap=2, ground=(18, 16, 26)):
    rows = (len(images) + columns - 1) // columns
    h, w = images[0].shape[:2]
    out = np.empty((rows * (h + gap) + gap, columns * (w + gap) + gap, 3), np.uint8)
    out[:] = ground
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (h + gap), gap + (i % columns) * (w + gap)
        out[top:top + h, left:left + w] = image
    picture = Image.fromarray(out)
    return picture.resize((picture.width * scale, picture.height * scale), Image.NEAREST)


def save_png(picture, path, limit):
    """A PNG below `limit` bytes: as few of the lowest bits are dropped as that takes."""
    pixels = np.asarray(picture).astype(np.int32)
    for bits in range(5):
        step = 1 << bits
        coarse = np.clip((pixels + step // 2) // step * step, 0, 255).astype(np.uint8)
        Image.fromarray(coarse).save(path, optimize=True)
        if path.stat().st_size <= limit:
            return
    raise ValueError(f"{path.name} does not fit {limit} bytes")

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

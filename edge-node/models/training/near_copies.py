"""Near-copies of items: twins with altered traits, small steps in latent, and slight retouching."""

import io

import numpy as np
from PIL import Image, ImageFilter

from vocabulary import CARDINALITIES, NAMES

STEP = 0.08                # deviation of a small step in latent


LARGE = [NAMES.index(name) for name in ("kind", "material", "palette", "background")]   # traits of large areas


def altered(indices, random, count=None):
    """Copies of trait indices (N x traits) in which `count` traits have another value.

    Without `count` one or two have, a large area's among them, so that a picture joined from both shows it.
    """
    out = indices.copy()
    for row in out:
        traits = random.permutation(len(CARDINALITIES))
        if count is None:
            first = random.choice(LARGE)
            traits = [first, *traits[traits != first]][:random.integers(1, 3)]
        for trait in traits[:count]:
            row[trait] = (row[trait] + random.integers(1, CARDINALITIES[trait])) % CARDINALITIES[trait]
    return out


def stepped(latent, random):
    return np.clip(latent + random.normal(0, STEP, latent.shape), -1, 1).astype(np.float32)


def noisy(image, random):
    return image + random.normal(0, random.uniform(2, 8), image.shape)


def recompressed(image, random):
    held = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(held, "JPEG", quality=int(random.integers(50, 91)))
    return np.asarray(Image.open(held), np.float32)


def softened(image, random):
    soft = Image.fromarray(image.astype(np.uint8)).filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.8)))
    return np.asarray(soft, np.float32)


def moved(image, random):
    """One pixel to a side; the edge repeats."""
    top, left = random.integers(0, 3, 2)
    return np.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")[top:top + 64, left:left + 64]


def tinted(image, random):
    return image * random.uniform(0.9, 1.1, 3)


RETOUCHES = (noisy, recompressed, softened, moved, tinted)


def retouched(image, random):
    """The picture after one or two slight changes that leave every trait legible."""
    image = image.astype(np.float32)
    for which in random.choice(len(RETOUCHES), random.integers(1, 3), replace=False):
        image = np.clip(RETOUCHES[which](image, random), 0, 255)
    return np.floor(image + 0.5).clip(0, 255).astype(np.uint8)

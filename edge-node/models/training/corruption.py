"""Damages pictures and says where the evidence lies; the kinds themselves are in corruption_kinds.py.

A damage that changes next to nothing is none: it is drawn again until at least VISIBLE_PIXELS
pixels (BROAD_PIXELS where the kind changes the whole picture a little, as a blend of two like items)
differ by more than VISIBLE_STEP of 255 in some channel; a join of two pictures (cut, pasted part)
must also show along its seam, in at least SEAM_PIXELS pixels beside it.
"""

import numpy as np

VISIBLE_STEP = 32
VISIBLE_PIXELS = 164       # 4 % of 64 x 64
BROAD_PIXELS = 820         # 20 %
BROAD = ("blend",)
SEAM_PIXELS = 40
TRIES = 12


class Source:
    """The pictures that damage draws on: an item, another one, and its twin with altered traits."""

    def __init__(self, image, other, twin, random):
        self.image, self.other, self.twin, self.random = image, other, twin, random


def grown(mask, steps):
    """The mask and its neighbours up to `steps` pixels away (diamond)."""
    for _ in range(steps):
        out = mask.copy()
        out[1:] |= mask[:-1]
        out[:-1] |= mask[1:]
        out[:, 1:] |= mask[:, :-1]
        out[:, :-1] |= mask[:, 1:]
        mask = out
    return mask


def seam(region):
    """The pixels on both sides of a region's edge."""
    return grown(region, 1) & grown(~region, 1)


def least_pixels(kind):
    """How many pixels damage of this kind, given by its name, has to change visibly."""
    return BROAD_PIXELS if kind in BROAD else VISIBLE_PIXELS


def evidence(before, after, region, kind=""):
    """Where damage shows: everything that differs or, for a join, its seam. None if it hardly shows."""
    visible = np.abs(after - before).max(2) > VISIBLE_STEP
    if visible.sum() < least_pixels(kind):
        return None
    if region is None:
        return visible
    shown = seam(region) & grown(visible, 1)
    return shown if shown.sum() >= SEAM_PIXELS else None


def damage_one(kind, image, draw_other, twin, random):
    """The damaged picture as uint8 and its evidence; draws again while the damage hardly shows."""
    before = image.astype(np.float32)
    for _ in range(TRIES):
        made = kind(Source(before, draw_other().astype(np.float32), None if twin is None else twin.astype(np.float32), random))
        made, region = made if isinstance(made, tuple) else (made, None)
        after = np.floor(np.clip(made + 0.5, 0, 255))
        shown = evidence(before, after, region, kind.__name__)
        if shown is not None:
            return after.astype(np.uint8), shown
    return None


def damage(images, kinds, seed, twins=None):
    """Damages every image by a kind drawn from `kinds`.

    Returns uint8 images, the kinds' names and the evidence masks. `twins`: for each image the same
    item with altered traits, or None. An image on which its kind will not show gets another
    kind; where there is but one, another image takes its place.
    """
    random = np.random.default_rng(seed)
    names, out = [], np.empty(images.shape, np.uint8)
    shown = np.zeros(images.shape[:3], bool)
    offered = list(kinds)
    for i in range(len(images)):
        made, which = None, i
        while made is None:
            name = offered[random.integers(0, len(offered))]
            made = damage_one(kinds[name], images[which], lambda: images[random.integers(0, len(images))],
                              None if twins is None else twins[which], random)
            if made is None and len(offered) == 1:
                which = random.integers(0, len(images))
        out[i], shown[i] = made
        names.append(name)
    return out, np.array(names), shown


def cells(masks, size):
    """Share of evidence in each cell of size x size pixels: array [N, 64 / size, 64 / size]."""
    n, height, width = masks.shape
    return masks.reshape(n, height // size, size, width // size, size).mean((2, 4), dtype=np.float32)

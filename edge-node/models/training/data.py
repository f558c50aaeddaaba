"""Renders the training and evaluation sets in parallel and keeps them in a cache folder.

The cache (not part of the repository) is `KARAT_TRAINING_CACHE` or `training-cache` in the
system's temporary folder; it is keyed by the text of the renderer, so a change renders anew.
"""

import hashlib
import multiprocessing
import os
import pathlib
import tempfile

import numpy as np

from renderer import render
from vocabulary import CARDINALITIES, LATENT_LENGTH, OFFSETS, WIDTH

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("KARAT_TRAINING_CACHE", pathlib.Path(tempfile.gettempdir()) / "training-cache"))


def draw_inputs(count, seed):
    """Uniform trait indices (every combination, also forbidden ones) and uniform latents."""
    source = np.random.default_rng(seed)
    indices = np.stack([source.integers(0, c, count) for c in CARDINALITIES], 1).astype(np.int32)
    latent = source.uniform(-1.0, 1.0, (count, LATENT_LENGTH)).astype(np.float32)
    return indices, latent


def one_hot(indices):
    out = np.zeros((len(indices), WIDTH), np.float32)
    for trait, offset in enumerate(OFFSETS[:-1]):
        out[np.arange(len(indices)), offset + indices[:, trait]] = 1.0
    return out


def _render_pair(pair):
    return render(*pair)


def dataset(count, seed, workers=2):
    """Trait indices, latents and uint8 pixels of `count` relics, the same for the same seed."""
    indices, latent = draw_inputs(count, seed)
    key = hashlib.sha256()
    for name in ("renderer.py", "vocabulary.py"):
        key.update((HERE / name).read_bytes())
    path = CACHE / f"{key.hexdigest()[:16]}-{seed}-{count}.npy"
    if path.exists():
        return indices, latent, np.load(path, mmap_mode="r")
    CACHE.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pixels = np.stack(list(pool.imap(_render_pair, zip(indices, latent), chunksize=64)))
    scratch = path.with_suffix(".tmp.npy")
    np.save(scratch, pixels)
    scratch.rename(path)
    return indices, latent, pixels

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

from renderer import mixed, render, shares
from vocabulary import CARDINALITIES, LATENT_LENGTH, NAMES, OFFSETS, WIDTH

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("KARAT_TRAINING_CACHE", pathlib.Path(tempfile.gettempdir()) / "training-cache"))


# (pictures, seed, combinations) by use.
SETS = {
    "training": (int(os.environ.get("KARAT_TRAIN_COUNT", 20000)), 1, "in training"),
    "check": (2000, 2, "any"),
    "limits": (4000, 8, "any"),
    "test": (2000, 12, "any"),
    "held out": (1000, 13, "held out"),
}

SHARE_UNIT = 170.0         # shares reach 1.5


def _drawn_combinations(names, count, seed):
    """`count` different combinations of the named traits' values, as (positions, rows of values)."""
    positions = [NAMES.index(name) for name in names]
    shape = [CARDINALITIES[p] for p in positions]
    picked = np.random.default_rng(seed).choice(int(np.prod(shape)), count, replace=False)
    return positions, np.stack(np.unravel_index(picked, shape), 1)


# Combinations that no training set holds, so that a figure can be stated for what was never seen together.
HELD_OUT = [_drawn_combinations(("kind", "ornament", "gem"), 24, 11), _drawn_combinations(("material", "palette"), 4, 12)]


def held_out(indices):
    """Which rows hold a combination that training never sees."""
    found = np.zeros(len(indices), bool)
    for positions, rows in HELD_OUT:
        found |= (indices[:, None, positions] == rows[None]).all(2).any(1)
    return found


def draw_inputs(count, seed, keep="any"):
    """Uniform trait indices (also those that the rarity rules forbid) and uniform latents.

    `keep`: "any" combination, only those "in training", or only those "held out" of it.
    """
    source = np.random.default_rng(seed)
    drawn = count if keep == "any" else 2 * count if keep == "in training" else 12 * count
    indices = np.stack([source.integers(0, c, drawn) for c in CARDINALITIES], 1).astype(np.int32)
    if keep != "any":
        indices = indices[held_out(indices) == (keep == "held out")][:count]
    if len(indices) < count:
        raise ValueError(f"only {len(indices)} of {count} inputs are {keep}: draw more")
    return indices, source.uniform(-1.0, 1.0, (count, LATENT_LENGTH)).astype(np.float32)


def one_hot(indices):
    out = np.zeros((len(indices), WIDTH), np.float32)
    for trait, offset in enumerate(OFFSETS[:-1]):
        out[np.arange(len(indices)), offset + indices[:, trait]] = 1.0
    return out


def _render(pair):
    return render(*pair)


def _render_with_shares(pair):
    shown = shares(*pair)
    return mixed(shown, *pair), np.clip(shown * SHARE_UNIT + 0.5, 0, 255).astype(np.uint8)


def _store(path, array):
    scratch = path.with_suffix(f".{os.getpid()}.npy")
    np.save(scratch, array)
    scratch.rename(path)


def rendered(indices, latent, label="", with_shares=False, workers=2):
    """uint8 pixels of the relics that the inputs name, rendered or from the cache; `with_shares` also their shares
    of colours, as uint8 in units of 1 / SHARE_UNIT."""
    key = hashlib.sha256(indices.tobytes() + latent.tobytes())
    for name in ("painting.py", "renderer.py", "vocabulary.py"):
        key.update((HERE / name).read_bytes())
    path = CACHE / f"{key.hexdigest()[:16]}{label}-{len(indices)}.npy"
    parts = path.with_name(f"shares-{path.name}")
    if not (parts if with_shares else path).exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            made = list(pool.imap(_render_with_shares if with_shares else _render, zip(indices, latent), chunksize=64))
        if with_shares:
            _store(path, np.stack([pixels for pixels, _ in made]))
            _store(parts, np.stack([shown for _, shown in made]))
        else:
            _store(path, np.stack(made))
    pixels = np.load(path, mmap_mode="r")
    return (pixels, np.load(parts, mmap_mode="r")) if with_shares else pixels


def dataset(count, seed, keep="any"):
    """Trait indices, latents and uint8 pixels of `count` relics, the same for the same seed and `keep`."""
    indices, latent = draw_inputs(count, seed, keep)
    return indices, latent, rendered(indices, latent, f"-{seed}")


def named_set(name):
    """One of SETS, rendered or from the cache."""
    return dataset(*SETS[name])


def training_shares():
    """Indices, latents, pixels and shares of the training set."""
    indices, latent = draw_inputs(*SETS["training"])
    return indices, latent, *rendered(indices, latent, f"-{SETS['training'][1]}", with_shares=True)


def main():
    """Renders every set that training and evaluation use."""
    training_shares()
    for name in SETS:
        named_set(name)


if __name__ == "__main__":
    main()

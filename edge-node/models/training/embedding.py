"""Fits the auditor's embedding, in closed form, once everything else has learnt.

The hidden layer tells traits, and hardly anything of the latent: tilt, width or light move few pixels. They show in what
differs from the drawing (drawer.py), from which ridge regression reads them. Both together are projected so that
near-copies lie as close as they can beside the spread of all pictures (linear discriminants, R. A. Fisher, 1936, over the
differences of pairs; C. R. Rao, 1948).
"""

import jax
import jax.numpy as jnp
import numpy as np

import auditor
import near_copies
from data import draw_inputs
from runtime import GENERATORS, generate, session
from training import SEED
from vocabulary import LATENT_LENGTH

PICTURES = {"small": 3000, "teacher": 1500, "smaller": 1500}
ALTERED = 1500             # near-copies with one altered trait, of the small variant
# Of the spread within pairs of near-copies; the rest is the retouched ones'. More finds more altered copies and fewer moved ones.
ALTERED_SHARE = 1 / 3
RIDGE = 3e-4               # of the mean square that a differing value has on its own; from 1e-5 to 1e-3 little changes
FLOOR = 1e-3               # added to the spread within pairs, as a share of the spread of all


def quantised(w):
    """Rows by columns, in whole steps of a column's scale that fit a byte; (bytes around 128, scales)."""
    scale = np.abs(w).max(0) / 127.0
    return (np.round(w / scale) + 128).astype(np.uint8), scale.astype(np.float32)


def restored(held, scale):
    return (held.astype(np.float32) - 128.0) * scale


def answers(weights, pixels, batch=50):
    """The learnt embedding and what differs from the drawing, a row a picture."""
    @jax.jit
    def ask(x):
        _, _, embedding, _, error, _ = auditor.auditor(weights, x)
        return embedding, error.reshape(len(x), -1)
    parts = [ask(np.asarray(pixels[i:i + batch])) for i in range(0, len(pixels), batch)]
    return [np.concatenate([np.asarray(part) for part in column]) for column in zip(*parts)]


def discriminants(spread, within, count):
    """The `count` directions along which `spread` is largest beside `within`, each with a spread of 1; a column each."""
    root = np.linalg.cholesky(within)
    half = np.linalg.solve(root, np.linalg.solve(root, spread).T)
    _, vectors = np.linalg.eigh((half + half.T) / 2)
    directions = np.linalg.solve(root.T, vectors[:, ::-1][:, :count])
    return directions / np.sqrt(np.einsum("ij,ik,kj->j", directions, spread, directions))


def fitted(weights):
    """The weights with the embedding that is exported in the place of the learnt one."""
    random = np.random.default_rng(SEED + 150)
    models = {name: session(GENERATORS[name]) for name in PICTURES}
    inputs = {name: draw_inputs(count, SEED + 151 + i) for i, (name, count) in enumerate(PICTURES.items())}
    pixels = np.concatenate([generate(models[name], *of) for name, of in inputs.items()])
    latent = np.concatenate([of[1] for of in inputs.values()])
    indices, latents = (part[:ALTERED] for part in inputs["small"])
    copies = np.stack([near_copies.retouched(p, random) for p in pixels])
    altered = generate(models["small"], near_copies.altered(indices, random, 1), latents)
    (learnt, seen), (copied, copied_seen), (other, other_seen) = (answers(weights, p) for p in (pixels, copies, altered))

    both = np.concatenate([seen, copied_seen])
    centre = both.mean(0)
    both = both - centre
    square = both.T @ both
    square += RIDGE * len(both) * np.eye(len(square), dtype=np.float32)
    manner, scale = quantised(np.linalg.solve(square, both.T @ np.concatenate([latent, latent])))
    read = restored(manner, scale)

    def features(embedding, differing):
        return np.concatenate([embedding, differing @ read], 1).astype(np.float64)
    home, near, far = features(learnt, seen), features(copied, copied_seen), features(other, other_seen)
    spread = np.cov(home.T)
    pairs = [near - home, far - home[:ALTERED]]
    within = sum(share * d.T @ d / len(d) / 2 for share, d in zip((1 - ALTERED_SHARE, ALTERED_SHARE), pairs))
    directions = discriminants(spread, within + FLOOR * np.diag(np.diag(spread)), auditor.EMBEDDING)
    directions, own = directions.astype(np.float32), len(directions) - LATENT_LENGTH
    told = 1 - np.square(seen @ read - centre @ read - latent).mean(0) / latent.var(0)
    print("share of the latent's variance that is read", np.round(told, 2))
    return weights | {"w_embedding": weights["w_embedding"] @ directions[:own],
                      "b_embedding": (weights["b_embedding"] - home[:, :own].mean(0)) @ directions[:own] - centre @ read @ directions[own:],
                      "w_manner": manner, "s_manner": scale, "w_read": directions[own:]}

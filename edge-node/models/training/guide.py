"""A small reader network whose feature maps guide the generators' training; it is never committed.

It learns from the renderer's pictures alone and shares nothing with the auditor, so that what the
auditor reads in generated pictures is no figure that training aimed at.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from layers import conv, layer_weights
from vocabulary import NAMES, OFFSETS, WIDTH

CONVS = ((16, 1), (32, 2), (48, 2), (64, 2))
HIDDEN = 128


def guide_weights(seed):
    source, p, before = np.random.default_rng(seed), {}, 3
    for i, (channels, _) in enumerate(CONVS):
        p[f"w_conv{i}"], p[f"b_conv{i}"] = layer_weights(source, 3, 3, before, channels), np.zeros(channels, np.float32)
        before = channels
    p["w_hidden"], p["b_hidden"] = layer_weights(source, 64 * before, HIDDEN), np.zeros(HIDDEN, np.float32)
    p["w_traits"], p["b_traits"] = layer_weights(source, HIDDEN, WIDTH, gain=1.0), np.zeros(WIDTH, np.float32)
    return p


def guide(p, pixels):
    """Feature maps of the convolutions and trait logits of pixels in [0, 1]."""
    x, features = pixels * 2.0 - 1.0, []
    for i, (_, stride) in enumerate(CONVS):
        x = jax.nn.relu(conv(x, p[f"w_conv{i}"], stride) + p[f"b_conv{i}"])
        features.append(x)
    x = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["w_hidden"] + p["b_hidden"])
    return features, x @ p["w_traits"] + p["b_traits"]


# Traits that show in fine strokes only, by how much more they count than the others.
FINE = {"ornament": 4.0, "wear": 2.0}


def trait_loss(logits, traits, weights=None):
    """Cross entropy summed over the traits, each times its weight if it has one; `traits` are one-hot."""
    return sum((weights or {}).get(name, 1.0) * optax.softmax_cross_entropy(logits[:, low:high], traits[:, low:high]).mean()
               for name, low, high in zip(NAMES, OFFSETS, OFFSETS[1:]))


def guide_loss(p, _, traits, latent, pixels):
    return trait_loss(guide(p, pixels)[1], traits)


def feature_distance(p, made, wanted):
    """Mean absolute difference of the feature maps, each relative to its mean; and the logits of `made`."""
    features, logits = guide(p, jnp.concatenate([made, wanted]))
    count, total = len(made), 0.0
    for layer in features:
        total += jnp.abs(layer[:count] - layer[count:]).mean() / (layer[count:].mean() + 1e-3)
    return total / len(features), logits[:count]

"""The exact variant: whole numbers held in float32, with its rounding in the loop.

Every intermediate is a whole number times a power of two, so float32 computes it without error in
whatever order a backend adds.
"""

import jax
import jax.numpy as jnp
import numpy as np

from generator import CROSS, CROSS_BIAS, SEED_SIZE, SHAPES, SOURCES, TEMPLATE_SIZE, generator_parts, grid, mixed, stages, template_inputs
from layers import conv, depth_to_space

SHAPE = SHAPES["exact"]
Q_MAX = 1023               # activations are whole numbers in [-Q_MAX, Q_MAX]
WIDE = 8191                # parts of a sum, before the sum is brought into [0, Q_MAX]
STYLE_BITS = 6             # a style factor of 1.0 is the whole number 64
INPUT_BITS = 6             # traits and latent enter as multiples of 1/64
INPUT_MAX = 2 * 64         # crossed inputs reach 2.0
SUM_LIMIT = 2.0 ** 24      # float32 holds every whole number below this


def _straight_through(exact, value):
    return value + jax.lax.stop_gradient(exact - value)


def weight_bits(w, b, q_bits, q_max, headroom=0.92):
    """Per output channel: the power of two that uses the exact range for any input up to q_max."""
    total = q_max * jnp.sum(jnp.abs(w), axis=tuple(range(w.ndim - 1))) + jnp.abs(b) * 2.0 ** q_bits + 1e-3
    bits = jnp.floor(jnp.log2(SUM_LIMIT * headroom / total))
    return jnp.clip(bits, 0.0, 14.0)


def round_weights(w, b, q_bits, q_max):
    scale = 2.0 ** jax.lax.stop_gradient(weight_bits(w, b, q_bits, q_max))
    return _straight_through(jnp.round(w * scale) / scale, w), scale


def round_bias(b, scale):
    return _straight_through(jnp.round(b * scale) / scale, b)


def floor_to(x, bits, low, high):
    step = 2.0 ** -bits
    return jnp.clip(_straight_through(jnp.floor(x / step) * step, x), low * step, high * step)


def activation_bits(p, traits, latent):
    """Calibrates the power of two of every activation."""
    tap, bits = {}, {}
    generator_parts(p, SHAPE, traits, latent, tap)
    for name, value in tap.items():
        top = float(np.quantile(np.abs(np.asarray(value)), 0.99995))
        # Colours are made in steps of 255.
        top *= 255.0 if name == "colours" else 1.0
        bits[name] = int(np.floor(np.log2((Q_MAX + 0.5) / max(top, 1e-3))))
    # A trait's 1.0 is part of the style, and has to fit.
    bits["style"] = min(bits["style"], int(np.log2(Q_MAX)))
    # The convolution after the join reads both parts at one scale.
    bits["middle_after"] = bits["templates"] = min(bits["middle_after"], bits["templates"])
    return bits


def exact_parts(p, bits, traits, latent):
    """Shares, and colours in steps of 255."""
    def layer(x, x_bits, x_max, name, out_bits, low, high, apply=jnp.matmul, factor=1.0):
        b = p[f"b_{name}"] if f"b_{name}" in p else jnp.zeros(p[f"w_{name}"].shape[-1])
        b = b * factor + 0.5 * 2.0 ** -out_bits
        w, scale = round_weights(p[f"w_{name}"] * factor, b, x_bits, x_max)
        return floor_to(apply(x, w) + round_bias(b, scale * 2.0 ** x_bits), out_bits, low, high)

    def modulated(x, name):
        before, after = bits[f"{name}_before"], bits[f"{name}_after"]
        shift = layer(style, bits["style"], Q_MAX, f"{name}_shift", before, -WIDE, WIDE)
        scale = layer(style, bits["style"], Q_MAX, f"{name}_scale", STYLE_BITS, -Q_MAX, Q_MAX)
        x = jnp.clip(x + shift[:, None, None], 0.0, Q_MAX * 2.0 ** -before)
        return floor_to(x * scale[:, None, None], after, -Q_MAX, Q_MAX)

    def templates():
        held, made = {"traits": traits, "crossed": crossed}, []
        for i, parts in enumerate(template_inputs()):
            given = jnp.concatenate([held[source][:, columns] for source, columns in parts], 1)
            made.append(grid(layer(given, INPUT_BITS, INPUT_MAX, f"template{i}", bits["templates"], -Q_MAX, Q_MAX), TEMPLATE_SIZE))
        return jnp.concatenate(made, -1)

    given = jnp.concatenate([traits, floor_to(latent, INPUT_BITS, -64, 64)], 1)
    crossed = jnp.clip(given @ CROSS + CROSS_BIAS, 0.0, 2.0)
    x = layer(jnp.concatenate([given, crossed], 1), INPUT_BITS, INPUT_MAX, "hidden", bits["hidden"], 0, Q_MAX)
    style = jnp.concatenate([layer(x, bits["hidden"], Q_MAX, "style", bits["style"], 0, Q_MAX),
                             floor_to(given, bits["style"], -Q_MAX, Q_MAX)], 1)
    x = grid(layer(style, bits["style"], Q_MAX, "seed", bits["seed"], 0, Q_MAX), SEED_SIZE)
    x_bits = bits["seed"]
    for name, _, _, growth in stages(SHAPE):
        if name == "fine":
            x = jnp.concatenate([x, templates()], -1)
        x = layer(x, x_bits, Q_MAX, name, bits[f"{name}_before"], -(2 ** 20), 2 ** 20, conv)
        x = modulated(depth_to_space(x, growth), name)
        x_bits = bits[f"{name}_after"]
    shares = depth_to_space(layer(x, x_bits, Q_MAX, "shares", bits["shares"], -Q_MAX, Q_MAX, conv), 2)
    colours = layer(style, bits["style"], Q_MAX, "colours", bits["colours"], -Q_MAX, Q_MAX, factor=255.0)
    return shares, colours.reshape(-1, SOURCES, 3)


def exact_generator(p, bits, traits, latent):
    """Pixels in [0, 255], floored."""
    pixels = mixed(*exact_parts(p, bits, traits, latent))
    return jnp.clip(_straight_through(jnp.floor(pixels + 0.5), pixels), 0.0, 255.0)

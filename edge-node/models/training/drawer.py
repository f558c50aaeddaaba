"""Draws, at half size, the sound picture that a guess of traits and latent stands for.

A small generator (see generator.py) on a grid of 16 x 16 cells, each 2 x 2 pixels of the halved picture.
The auditor holds one: what its picture shows beside the drawing of what it seems to be, is evidence of damage.
"""

import jax
import jax.numpy as jnp
import numpy as np

from generator import CROSS, CROSS_BIAS, CROSSED, SOURCES, grid, template_inputs
from layers import conv, depth_to_space, layer_weights
from vocabulary import LATENT_LENGTH, WIDTH

CELLS = 16                 # a side of the grid
CELL = 4                   # pixels of a cell
STYLE = 96
SEED = 4                   # channels of the 8 x 8 map
GROWN = 7                  # channels that it grows into; with the templates they fill 32
FINE = 48
TEMPLATES = (8, 2, 5, 3, 3, 4)         # of kind, forming numbers, ornament, gem, wear and background
INPUTS = WIDTH + LATENT_LENGTH


def drawer_weights(seed):
    """Weights to start from; all names start with `draw_`."""
    source, p = np.random.default_rng(seed), {}

    def layer(name, *shape, gain=2.0, bias=0.0):
        p[f"draw_w_{name}"], p[f"draw_b_{name}"] = layer_weights(source, *shape, gain=gain), np.full(shape[-1], bias, np.float32)
    wide = STYLE + INPUTS
    layer("style", INPUTS + CROSSED, STYLE, gain=10.0, bias=0.1)
    layer("seed", wide, 64 * SEED, bias=0.1)
    layer("grown", 3, 3, SEED, 4 * GROWN)
    layer("fine", 3, 3, GROWN + sum(TEMPLATES), FINE)
    layer("shift", wide, FINE, gain=0.2, bias=0.05)
    layer("scale", wide, FINE, gain=0.2, bias=1.0)
    layer("shares", 1, 1, FINE, CELL * SOURCES, gain=0.2, bias=0.1)
    layer("colours", wide, 3 * SOURCES, gain=0.05, bias=0.4)
    for i, (parts, channels) in enumerate(zip(template_inputs(), TEMPLATES)):
        rows = sum(columns.stop - columns.start for _, columns in parts)
        p[f"draw_template{i}"] = (0.3 * source.standard_normal((rows, CELLS ** 2 * channels))).astype(np.float32)
    return p


def drawn_parts(p, traits, latent):
    """Shares of every source, [N, 16, 16, 4, sources], and the sources' colours, [N, sources, 3]."""
    given = jnp.concatenate([traits, latent], 1)
    crossed = jax.nn.relu(given @ CROSS + CROSS_BIAS)
    x = jnp.concatenate([given, crossed], 1)
    style = jnp.concatenate([jax.nn.relu(x @ p["draw_w_style"] + p["draw_b_style"]), given], 1)
    x = grid(jax.nn.relu(style @ p["draw_w_seed"] + p["draw_b_seed"]), 8)
    x = depth_to_space(jax.nn.relu(conv(x, p["draw_w_grown"]) + p["draw_b_grown"]))
    held = {"traits": traits, "crossed": crossed}
    maps = [grid(jnp.concatenate([held[source][:, columns] for source, columns in parts], 1) @ p[f"draw_template{i}"], CELLS)
            for i, parts in enumerate(template_inputs())]
    x = conv(jnp.concatenate([x, *maps], -1), p["draw_w_fine"]) + p["draw_b_fine"]
    shift, scale = (style @ p[f"draw_w_{part}"] + p[f"draw_b_{part}"] for part in ("shift", "scale"))
    x = jax.nn.relu(x + shift[:, None, None]) * scale[:, None, None]
    shares = conv(x, p["draw_w_shares"]) + p["draw_b_shares"]
    colours = (style @ p["draw_w_colours"] + p["draw_b_colours"]).reshape(-1, SOURCES, 3)
    return shares.reshape(-1, CELLS, CELLS, CELL, SOURCES), colours


def mixed(shares, colours):
    """A cell's pixels, by place and channel: [N, 16, 16, 12] around [0, 1]."""
    return jnp.einsum("nyxpm,nmc->nyxpc", shares, colours).reshape(-1, CELLS, CELLS, CELL * 3)


def gathered(shares):
    """Shares of whole pictures, [N, 64, 64, sources], halved and gathered by cell."""
    n, side, _, sources = shares.shape
    halved = shares.reshape(n, side // 2, 2, side // 2, 2, sources).mean((2, 4))
    return halved.reshape(n, CELLS, 2, CELLS, 2, sources).transpose(0, 1, 3, 2, 4, 5).reshape(n, CELLS, CELLS, CELL, sources)


def drawer_loss(p, done, traits, latent, shares, colours):
    """As losses.py: squared errors, and absolute ones once something is known."""
    made = drawn_parts(p, traits, latent)
    sharp = jnp.clip(done * 12.0 - 0.4, 0.0, 1.0)

    def far(error):
        return 4.0 * jnp.square(error).mean() + sharp * jnp.abs(error).mean()
    return (far(mixed(*made) - mixed(shares, colours)) + 3.0 * far(made[0] - shares)
            + 2.0 * jnp.square(made[1] - colours).mean())

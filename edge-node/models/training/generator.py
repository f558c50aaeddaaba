"""The generators as plain functions over weight dictionaries.

A generator works on three grids. A dense network turns traits and latent into a style vector and an
8 x 8 map; convolutions double it to 16 x 16 and 32 x 32, and the last one writes for four pixels a place
how much of each colour source they show. The style also gives the sources' colours, and a pixel is the
sum of its shares times those.
At 32 x 32 drawn templates join it: maps that a trait, or a trait together with the kind, looks up
(where the cracks of a shield run, say). They hold the fine detail; the convolutions bend, mask and
colour it. The style shifts and scales every channel of every stage.

Layout here is batch, height, width, channel; export_generator.py writes batch, channel, height, width.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from layers import conv, depth_to_space, layer_weights, near
from painting import SOURCES as SOURCE_NAMES
from vocabulary import CARDINALITIES, LATENT_LENGTH, NAMES, OFFSETS, WIDTH

SEED_SIZE = 8
TEMPLATE_SIZE = 32
KINDS = CARDINALITIES[0]
SOURCES = len(SOURCE_NAMES)
PAIRED = ("ornament", "gem", "wear")   # each value but the first, together with each kind
FORMING = (2, 3, 4)                    # latent numbers that shape the item, together with each kind


@dataclass(frozen=True)
class Shape:
    """Channels of a generator, and what it has besides.

    `templates` are those of kind, forming numbers, ornament, gem, wear and background. With no `coarse` channels
    the grid grows from 8 x 8 to 32 x 32 at once. A `deep` one adds a residual convolution at 16 x 16 and at
    32 x 32; in a `gated` one the style shifts and scales the templates before they join; a `light` one's last
    convolutions look at each channel's neighbourhood and then at each place alone.
    """

    hidden: int
    seed: int
    coarse: int
    middle: int
    fine: int
    templates: tuple
    deep: bool = False
    gated: bool = False
    light: bool = False


# A runtime pads channels to 16: middle and templates together fill a multiple of it.
SHAPES = {
    "teacher": Shape(160, 12, 64, 32, 48, (10, 3, 8, 3, 4, 4), deep=True, gated=True),
    "small": Shape(112, 8, 32, 16, 32, (5, 2, 3, 2, 2, 2)),
    "smaller": Shape(48, 4, 0, 8, 32, (8, 2, 5, 2, 4, 3), light=True),
}
SHAPES["exact"] = SHAPES["small"]


def crossing():
    """Matrix and bias of the crossed inputs, and the columns of each group.

    relu([traits, latent] @ matrix + bias) is 1 where a kind and a paired value are both set, and for
    every kind and forming number the number plus 1 if the kind is set, else 0.
    """
    columns, groups = [], {}

    def add(group, kind_weight, rows):
        start = len(columns)
        for kind in range(KINDS):
            for row in rows:
                column = np.zeros(WIDTH + LATENT_LENGTH, np.float32)
                column[kind], column[row] = kind_weight, 1.0
                columns.append(column)
        groups[group] = slice(start, len(columns))
    for name in PAIRED:
        trait = NAMES.index(name)
        add(name, 1.0, range(OFFSETS[trait] + 1, OFFSETS[trait + 1]))
    add("forming", 2.0, [WIDTH + number for number in FORMING])
    return np.stack(columns, 1), np.full(len(columns), -1.0, np.float32), groups


CROSS, CROSS_BIAS, GROUPS = crossing()
CROSSED = len(CROSS_BIAS)


def template_inputs():
    """For each group of templates the (source, columns) that look it up; sources are "traits" and "crossed"."""
    kind, ground = slice(0, KINDS), slice(OFFSETS[NAMES.index("background")], WIDTH)
    return [[("traits", kind)], [("crossed", GROUPS["forming"])], *([("crossed", GROUPS[name])] for name in PAIRED), [("traits", ground)]]


def stages(shape):
    """(name, channels in, channels out, by what the grid's side grows) of the modulated convolutions in order."""
    joined = shape.middle + sum(shape.templates)
    if not shape.coarse:
        rows = [("middle", shape.seed, shape.middle, 4)]
    else:
        rows = [("coarse", shape.seed, shape.coarse, 2)]
        if shape.deep:
            rows.append(("coarse_more", shape.coarse, shape.coarse, 1))
        rows.append(("middle", shape.coarse, shape.middle, 2))
    rows.append(("fine", joined, shape.fine, 1))
    if shape.deep:
        rows.append(("fine_more", shape.fine, shape.fine, 1))
    return rows


def generator_weights(shape, seed):
    """Weights to start from."""
    source = np.random.default_rng(seed)
    p = {}

    def dense(name, fan_in, out, gain, bias=0.0):
        p[f"w_{name}"] = layer_weights(source, fan_in, out, gain=gain)
        p[f"b_{name}"] = np.full(out, bias, np.float32)

    def modulation(name, channels):
        dense(f"{name}_shift", style, channels, 0.2, 0.05)
        dense(f"{name}_scale", style, channels, 0.2, 1.0)
    style = shape.hidden + WIDTH + LATENT_LENGTH
    # The inputs are mostly zeros: a larger gain keeps the variance.
    dense("hidden", WIDTH + LATENT_LENGTH + CROSSED, shape.hidden, 10.0, 0.1)
    dense("style", shape.hidden, shape.hidden, 2.0, 0.1)
    dense("seed", style, SEED_SIZE ** 2 * shape.seed, 2.0, 0.1)
    if shape.light:
        joined = shape.middle + sum(shape.templates)
        p["w_near"], p["b_near"] = layer_weights(source, 3, 3, 1, joined, gain=1.0), np.zeros(joined, np.float32)
        p["w_near"][1, 1] += 1.0
    for name, before, out, growth in stages(shape):
        wide, side = out * growth ** 2, 1 if shape.light and name == "fine" else 3
        p[f"w_{name}"] = layer_weights(source, side, side, before, wide, gain=0.5 if name.endswith("more") else 2.0)
        p[f"b_{name}"] = np.zeros(wide, np.float32)
        modulation(name, out)
    for i, (parts, channels) in enumerate(zip(template_inputs(), shape.templates)):
        rows = sum(columns.stop - columns.start for _, columns in parts)
        p[f"w_template{i}"] = (0.3 * source.standard_normal((rows, TEMPLATE_SIZE ** 2 * channels))).astype(np.float32)
    if shape.gated:
        modulation("template", sum(shape.templates))
    side, gain = (1, 0.2) if shape.light else (3, 0.02)
    p["w_shares"] = layer_weights(source, side, side, shape.fine, 4 * SOURCES, gain=gain)
    p["b_shares"] = np.full(4 * SOURCES, 0.1, np.float32)
    dense("colours", style, 3 * SOURCES, 0.05, 0.4)
    return p


def grid(x, size):
    """A dense result as a map."""
    return x.reshape(x.shape[0], -1, size, size).transpose(0, 2, 3, 1)


def templates(p, shape, traits, crossed):
    held = {"traits": traits, "crossed": crossed}
    return jnp.concatenate([
        grid(jnp.concatenate([held[source][:, columns] for source, columns in parts], 1) @ p[f"w_template{i}"], TEMPLATE_SIZE)
        for i, parts in enumerate(template_inputs())], -1)


def generator_parts(p, shape, traits, latent, tap=None):
    """Shares of every source at each pixel and the sources' colours. `tap`, if given, collects activations by name."""
    keep = tap.__setitem__ if tap is not None else lambda name, value: None
    given = jnp.concatenate([traits, latent], 1)
    crossed = jax.nn.relu(given @ CROSS + CROSS_BIAS)
    x = jax.nn.relu(jnp.concatenate([given, crossed], 1) @ p["w_hidden"] + p["b_hidden"])
    keep("hidden", x)
    style = jnp.concatenate([jax.nn.relu(x @ p["w_style"] + p["b_style"]), given], 1)
    keep("style", style)

    def modulated(x, name):
        shift = style @ p[f"w_{name}_shift"] + p[f"b_{name}_shift"]
        scale = style @ p[f"w_{name}_scale"] + p[f"b_{name}_scale"]
        x = jax.nn.relu(x + shift[:, None, None])
        keep(f"{name}_before", x)
        x = x * scale[:, None, None]
        keep(f"{name}_after", x)
        return x
    x = grid(jax.nn.relu(style @ p["w_seed"] + p["b_seed"]), SEED_SIZE)
    keep("seed", x)
    for name, _, _, growth in stages(shape):
        if name == "fine":
            drawn = templates(p, shape, traits, crossed)
            keep("templates", drawn)
            x = jnp.concatenate([x, modulated(drawn, "template") if shape.gated else drawn], -1)
            if shape.light:
                x = near(x, p["w_near"]) + p["b_near"]
        y = conv(x, p[f"w_{name}"]) + p[f"b_{name}"]
        y = modulated(depth_to_space(y, growth), name)
        x = x + y if name.endswith("more") else y
    shares = depth_to_space(conv(x, p["w_shares"]) + p["b_shares"], 2)
    colours = (style @ p["w_colours"] + p["b_colours"]).reshape(-1, SOURCES, 3)
    keep("shares", shares)
    keep("colours", colours)
    return shares, colours


def mixed(shares, colours):
    """Pixels as floats around [0, 1], not clipped."""
    return jnp.einsum("nyxm,nmc->nyxc", shares, colours)


def generator(p, shape, traits, latent):
    """Pixels as floats around [0, 1], not clipped."""
    return mixed(*generator_parts(p, shape, traits, latent))

"""The networks: generator (float and exact) and auditor, as plain functions over weight dictionaries.

Layout here is batch, height, width, channel; export.py writes batch, channel, height, width.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vocabulary import CARDINALITIES, LATENT_LENGTH, NAMES, OFFSETS, WIDTH

HIDDEN = 224
SEED_SIZE, SEED_CHANNELS = 8, 24
STAGES = (40, 24)          # channels after each doubling of the seed's 8 x 8
FINE = 24                  # channels of the last full convolution at 32 x 32
EMBEDDING = 32


# --- exact arithmetic -----------------------------------------------------------------------

Q_MAX = 1023               # activations are whole numbers in [-Q_MAX, Q_MAX]
STYLE_BITS = 6             # a style factor of 1.0 is the whole number 64
INPUT_BITS = 6             # traits and latent enter as multiples of 1/64
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


# --- pairs of traits ------------------------------------------------------------------------

PAIRED = ("ornament", "gem", "wear")   # each value but the first, together with each kind


def pair_matrix():
    """Columns that hold 1 for a kind and 1 for a paired value: their sum minus 1 is "both"."""
    columns = []
    for kind in range(CARDINALITIES[0]):
        for name in PAIRED:
            trait = NAMES.index(name)
            for value in range(1, CARDINALITIES[trait]):
                column = np.zeros(WIDTH + LATENT_LENGTH, np.float32)
                column[kind] = column[OFFSETS[trait] + value] = 1.0
                columns.append(column)
    return np.stack(columns, 1)


PAIRS = pair_matrix()


def with_pairs(p):
    """Adds the layer by which a pair (this kind, that gem) writes straight into the seed's map; zero at first."""
    return p | {"wp": np.zeros((PAIRS.shape[1], SEED_SIZE ** 2 * SEED_CHANNELS), np.float32)}


# --- shared pieces --------------------------------------------------------------------------

def conv(x, w, stride=1):
    padding = ((1, 1), (1, 1)) if w.shape[0] == 3 else "SAME"
    return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def depth_to_space(x):
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h * 2, w * 2, c // 4)


def _layer(source, *shape, gain=2.0):
    fan_in = int(np.prod(shape[:-1]))
    return (source.standard_normal(shape) * np.sqrt(gain / fan_in)).astype(np.float32)


# --- generator ------------------------------------------------------------------------------

def generator_weights(seed):
    source = np.random.default_rng(seed)
    p = {"w1": _layer(source, WIDTH + LATENT_LENGTH, HIDDEN, gain=6.0), "b1": np.zeros(HIDDEN, np.float32),
         "w2": _layer(source, HIDDEN, HIDDEN), "b2": np.zeros(HIDDEN, np.float32),
         "ws": _layer(source, HIDDEN, SEED_SIZE ** 2 * SEED_CHANNELS),
         "bs": np.zeros(SEED_SIZE ** 2 * SEED_CHANNELS, np.float32)}
    before = SEED_CHANNELS
    for i, channels in enumerate((*STAGES, FINE)):
        out = channels * 4 if i < len(STAGES) else channels
        p[f"w_conv{i}"] = _layer(source, 3, 3, before, out)
        p[f"b_conv{i}"] = np.zeros(out, np.float32)
        p[f"w_shift{i}"] = _layer(source, HIDDEN, channels, gain=0.2)
        p[f"b_shift{i}"] = np.zeros(channels, np.float32)
        p[f"w_scale{i}"] = _layer(source, HIDDEN, channels, gain=0.2)
        p[f"b_scale{i}"] = np.ones(channels, np.float32)
        before = channels
    p["w_out"] = _layer(source, 3, 3, before, 12, gain=0.02)
    p["b_out"] = np.full(12, 0.42, np.float32)
    return p


def generator(p, traits, latent, tap=None):
    """Pixels as floats around [0, 1], not clipped. `tap`, if given, collects activations by name."""
    keep = tap.__setitem__ if tap is not None else lambda name, value: None
    given = jnp.concatenate([traits, latent], 1)
    x = jax.nn.relu(given @ p["w1"] + p["b1"])
    keep("h1", x)
    style = jax.nn.relu(x @ p["w2"] + p["b2"])
    keep("h2", style)
    x = style @ p["ws"] + p["bs"]
    if "wp" in p:
        x = x + jax.nn.relu(given @ PAIRS - 1.0) @ p["wp"]
    x = jax.nn.relu(x)
    keep("seed", x)
    x = x.reshape(-1, SEED_CHANNELS, SEED_SIZE, SEED_SIZE).transpose(0, 2, 3, 1)
    for i in range(len(STAGES) + 1):
        x = conv(x, p[f"w_conv{i}"]) + p[f"b_conv{i}"]
        if i < len(STAGES):
            x = depth_to_space(x)
        shift = style @ p[f"w_shift{i}"] + p[f"b_shift{i}"]
        scale = style @ p[f"w_scale{i}"] + p[f"b_scale{i}"]
        x = jax.nn.relu(x + shift[:, None, None]) 
        keep(f"pre{i}", x)
        x = x * scale[:, None, None]
        keep(f"post{i}", x)
    return depth_to_space(conv(x, p["w_out"]) + p["b_out"])


def revived(p, traits, latent, seed):
    """Gives hidden units that no input wakes new incoming weights, and outgoing ones of zero.

    Large steps early in training leave many such units behind; the pictures stay as they are.
    """
    source, tap = np.random.default_rng(seed), {}
    generator(p, traits, latent, tap)
    out = {k: np.array(v) for k, v in p.items()}
    readers = ["ws"] + [k for k in p if k.startswith(("w_shift", "w_scale"))]
    for name, weight, bias, outgoing in (("h1", "w1", "b1", ["w2"]), ("h2", "w2", "b2", readers)):
        dead = np.asarray(tap[name]).max(0) <= 1e-6
        out[weight][:, dead] = _layer(source, len(out[weight]), int(dead.sum()), gain=6.0 if name == "h1" else 2.0)
        out[bias][dead] = 0.0
        for reader in outgoing:
            out[reader][dead] = 0.0
        print(f"{name}: {int(dead.sum())} of {len(dead)} units revived")
    return out


def activation_bits(p, traits, latent):
    """Calibrates the power of two of every activation of the exact variant."""
    tap = {}
    generator(p, traits, latent, tap)
    bits = {}
    for name, value in tap.items():
        top = float(np.quantile(np.abs(np.asarray(value)), 0.99995))
        bits[name] = int(np.floor(np.log2((Q_MAX + 0.5) / max(top, 1e-3))))
    return bits


def exact_generator(p, bits, traits, latent):
    """The exact variant with its rounding in the loop; returns pixels in [0, 255], floored.

    Every intermediate is a whole number times a power of two, so float32 computes it without error.
    """
    def dense(x, x_bits, x_max, w, b, out_bits, low, high, apply=jnp.matmul):
        b = b + 0.5 * 2.0 ** -out_bits
        w, scale = round_weights(w, b, x_bits, x_max)
        b = round_bias(b, scale * 2.0 ** x_bits)
        return apply(x, w) + b, (out_bits, low, high)

    given = jnp.concatenate([traits, floor_to(latent, INPUT_BITS, -64, 64)], 1)
    x, form = dense(given, INPUT_BITS, 64, p["w1"], p["b1"], bits["h1"], 0, Q_MAX)
    x = floor_to(x, *form)
    x, form = dense(x, bits["h1"], Q_MAX, p["w2"], p["b2"], bits["h2"], 0, Q_MAX)
    style = floor_to(x, *form)
    x, form = dense(style, bits["h2"], Q_MAX, p["ws"], p["bs"], bits["seed"], -8191, 8191)
    x = floor_to(x, *form)
    both = jnp.clip(given @ PAIRS - 1.0, 0.0, 1.0)
    direct, form = dense(both, INPUT_BITS, 64, p["wp"], jnp.zeros(p["wp"].shape[1]), bits["seed"], -8191, 8191)
    x = jnp.clip(x + floor_to(direct, *form), 0.0, Q_MAX * 2.0 ** -bits["seed"])
    x = x.reshape(-1, SEED_CHANNELS, SEED_SIZE, SEED_SIZE).transpose(0, 2, 3, 1)
    x_bits = bits["seed"]
    for i in range(len(STAGES) + 1):
        pre, post = bits[f"pre{i}"], bits[f"post{i}"]
        x, _ = dense(x, x_bits, Q_MAX, p[f"w_conv{i}"], p[f"b_conv{i}"], pre, 0, 0, conv)
        x = floor_to(x, pre, -(2 ** 20), 2 ** 20)
        if i < len(STAGES):
            x = depth_to_space(x)
        shift, form = dense(style, bits["h2"], Q_MAX, p[f"w_shift{i}"], p[f"b_shift{i}"], pre, -8191, 8191)
        shift = floor_to(shift, *form)
        scale, form = dense(style, bits["h2"], Q_MAX, p[f"w_scale{i}"], p[f"b_scale{i}"], STYLE_BITS, -Q_MAX, Q_MAX)
        scale = floor_to(scale, *form)
        x = jnp.clip(x + shift[:, None, None], 0.0, Q_MAX * 2.0 ** -pre)
        x = floor_to(x * scale[:, None, None], post, -Q_MAX, Q_MAX)
        x_bits = post
    x, _ = dense(x, x_bits, Q_MAX, p["w_out"] * 255.0, p["b_out"] * 255.0, 0, 0, 255, conv)
    return depth_to_space(floor_to(x, 0, 0, 255))


# --- auditor --------------------------------------------------------------------------------

AUDITOR_CONVS = ((24, 2), (48, 2), (64, 1), (96, 2), (96, 2))
AUDITOR_HIDDEN = 160
NORM_FLOOR = 1e-4
POOLED = (1, 2)            # convolutions whose channel means also reach the heads


def auditor_weights(seed):
    """Weights for training: every hidden layer also has the gain and offset of its normalisation."""
    source = np.random.default_rng(seed)
    p, before = {}, 3
    for i, (channels, _) in enumerate(AUDITOR_CONVS):
        p[f"w_conv{i}"] = _layer(source, 3, 3, before, channels)
        p[f"g_conv{i}"], p[f"b_conv{i}"] = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        before = channels
    flat = 16 * before + sum(AUDITOR_CONVS[i][0] for i in POOLED)
    for name, fan_in, out in (("hidden", flat, AUDITOR_HIDDEN), ("traits", AUDITOR_HIDDEN, WIDTH),
                              ("corruption", AUDITOR_HIDDEN, 1), ("embedding", AUDITOR_HIDDEN, EMBEDDING)):
        p[f"w_{name}"] = _layer(source, fan_in, out, gain=2.0 if name == "hidden" else 1.0)
        p[f"b_{name}"] = np.zeros(out, np.float32)
    p["g_hidden"] = np.ones(AUDITOR_HIDDEN, np.float32)
    return p


def auditor(p, pixels, tap=None, features=None):
    """Trait logits, corruption logit and embedding of pixels given as floats in [0, 255].

    Weights with gains (`g_...`) are normalised by the batch at hand, as in training; weights from
    `folded` need no batch. `tap`, if given, collects mean and variance of each layer,
    and the list `features` the feature maps of the convolutions.
    """
    def normalised(x, name):
        if f"g_{name}" not in p:
            return jax.nn.relu(x + p[f"b_{name}"])
        axes = tuple(range(x.ndim - 1))
        mean, variance = x.mean(axes), x.var(axes)
        if tap is not None:
            tap[name] = (mean, variance)
        return jax.nn.relu((x - mean) * (p[f"g_{name}"] * jax.lax.rsqrt(variance + NORM_FLOOR)) + p[f"b_{name}"])

    x = pixels * (2.0 / 255.0) - 1.0
    pooled = []
    for i, (_, stride) in enumerate(AUDITOR_CONVS):
        x = normalised(conv(x, p[f"w_conv{i}"], stride), f"conv{i}")
        if features is not None:
            features.append(x)
        if i in POOLED:
            pooled.append(x.mean((1, 2)))
    x = jnp.concatenate([x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1), *pooled], 1)
    x = normalised(x @ p["w_hidden"], "hidden")
    return (x @ p["w_traits"] + p["b_traits"], x @ p["w_corruption"] + p["b_corruption"],
            x @ p["w_embedding"] + p["b_embedding"])


def folded(p, pixels):
    """The same network with normalisation fixed to the statistics of `pixels` and folded into the weights."""
    tap, out = {}, {k: v for k, v in p.items() if not k.startswith("g_")}
    auditor(p, pixels, tap)
    for name, (mean, variance) in tap.items():
        factor = np.asarray(p[f"g_{name}"]) / np.sqrt(np.asarray(variance) + NORM_FLOOR)
        out[f"w_{name}"] = np.asarray(p[f"w_{name}"]) * factor
        out[f"b_{name}"] = np.asarray(p[f"b_{name}"]) - np.asarray(mean) * factor
    return out

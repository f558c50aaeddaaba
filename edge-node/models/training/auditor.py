"""The auditor as plain functions over weight dictionaries; export_auditor.py writes it as ONNX.

A convolutional trunk ends in one hidden layer over the whole picture, which gives trait logits and
embedding, and a guess of traits and latent from which the drawer (drawer.py) draws, at half size, the sound
picture that it stands for. What is seen and what differs from that drawing give two maps of evidence, 16 x 16 and 8 x 8 cells,
that say where something was altered; their largest and mean values and the hidden layer give the
corruption logit. The embedding that is exported (embedding.py) also holds what the difference tells of the latent.
"""

import jax
import jax.numpy as jnp
import numpy as np

import drawer
from layers import layer_weights
from vocabulary import LATENT_LENGTH, WIDTH

EMBEDDING = 32
CONVS = ((4, 32, 2), (2, 64, 2), (3, 64, 1), (3, 80, 2), (3, 80, 1), (3, 80, 1), (3, 48, 2))   # kernel, channels, stride
FINE, COARSE = 2, 5        # the convolutions whose features the maps of 16 x 16 and 8 x 8 cells see
HIDDEN = 160
HALVES = 12                # a cell of the half-sized picture in 16 x 16: 2 x 2 pixels of 3 channels
DIFFERING = 24             # features of the difference in the 8 x 8 map
MAPS = {"fine": 16, "coarse": 24}      # channels of the maps; the first is supervised
JUDGE = 48
NORM_FLOOR = 1e-4


def auditor_weights(seed):
    """Weights for training: every normalised layer also has its gain and offset."""
    source, p = np.random.default_rng(seed), {}

    def layer(name, *shape, normalised=True, gain=2.0):
        p[f"w_{name}"], p[f"b_{name}"] = layer_weights(source, *shape, gain=gain), np.zeros(shape[-1], np.float32)
        if normalised:
            p[f"g_{name}"] = np.ones(shape[-1], np.float32)

    before = 3
    for i, (kernel, channels, _) in enumerate(CONVS):
        layer(f"conv{i}", kernel, kernel, before, channels)
        before = channels
    layer("hidden", 16 * before, HIDDEN)
    layer("differing", 3, 3, 2 * HALVES, DIFFERING)
    layer("fine", 3, 3, 2 * HALVES + CONVS[FINE][1] // 4, MAPS["fine"])
    layer("coarse", 1, 1, DIFFERING + CONVS[COARSE][1], 2 * MAPS["coarse"])
    layer("look", 1, 1, CONVS[FINE][1], CONVS[FINE][1] // 4)
    for name, channels in MAPS.items():
        layer(f"{name}_map", 1, 1, channels if name == "fine" else 2 * channels, channels, normalised=False, gain=1.0)
    layer("judge", HIDDEN + 2 * sum(MAPS.values()), JUDGE)
    for name, fan_in, out in (("traits", HIDDEN, WIDTH), ("guess", HIDDEN, WIDTH), ("latent", HIDDEN, LATENT_LENGTH),
                              ("embedding", HIDDEN, EMBEDDING), ("corruption", JUDGE, 1)):
        layer(name, fan_in, out, normalised=False, gain=1.0)
    return p | drawer.drawer_weights(seed + 1)


def halved_weights():
    """Of the convolution, kernel and stride 4, that halves the picture and gathers each cell's 2 x 2 pixels."""
    w = np.zeros((4, 4, 3, HALVES), np.float32)
    for row in range(2):
        for column in range(2):
            for channel in range(3):
                w[2 * row:2 * row + 2, 2 * column:2 * column + 2, channel, (2 * row + column) * 3 + channel] = 0.25
    return w


def conv(x, w, stride=1):
    edge = ((w.shape[0] - 1) // 2,) * 2 if w.shape[0] != stride else (0, 0)
    return jax.lax.conv_general_dilated(x, w, (stride, stride), (edge, edge), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def auditor(p, pixels, tap=None):
    """Trait logits, corruption logit, embedding, the maps' logits, the error of the drawing by cell, and the guess (logits, latent).

    `pixels` lie in [0, 255]. Weights with gains (`g_...`) are normalised by the batch at hand, as in
    training; weights from `folded` need no batch. `tap`, if given, collects each layer's mean and variance.
    """
    def normalised(x, name):
        if f"g_{name}" not in p:
            return jax.nn.relu(x + p[f"b_{name}"])
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes)
        variance = jnp.square(x).mean(axes) - jnp.square(mean)
        if tap is not None:
            tap[name] = (mean, variance)
        factor = p[f"g_{name}"] * jax.lax.rsqrt(variance + NORM_FLOOR)
        return jax.nn.relu(x * factor + (p[f"b_{name}"] - mean * factor))

    picture = pixels.astype(jnp.float32) * (2.0 / 255.0) - 1.0
    x, seen = picture, {}
    for i, (_, _, stride) in enumerate(CONVS):
        x = seen[i] = normalised(conv(x, p[f"w_conv{i}"], stride), f"conv{i}")
    hidden = normalised(x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1) @ p["w_hidden"], "hidden")

    guess, latent = (hidden @ p[f"w_{name}"] + p[f"b_{name}"] for name in ("guess", "latent"))
    # The guess has a loss of its own and the drawer was trained before: no slope runs through the drawing.
    drawing = drawer.mixed(*drawer.drawn_parts(p, jax.nn.sigmoid(guess), jnp.clip(latent, -1.0, 1.0)))
    error = jax.lax.stop_gradient(conv(picture, halved_weights(), 4) - (2.0 * drawing - 1.0))
    differing = jnp.concatenate([jax.nn.relu(error), jax.nn.relu(-error)], -1)
    look = normalised(conv(seen[FINE], p["w_look"]), "look")
    fine = normalised(conv(jnp.concatenate([differing, look], -1), p["w_fine"]), "fine")
    coarse = jnp.concatenate([normalised(conv(differing, p["w_differing"], 2), "differing"), seen[COARSE]], -1)
    coarse = normalised(conv(coarse, p["w_coarse"]), "coarse")
    maps, judged = [], [hidden]
    for name, x in (("fine", fine), ("coarse", coarse)):
        x = conv(x, p[f"w_{name}_map"]) + p[f"b_{name}_map"]
        maps.append(x[..., 0])
        judged += [x.max((1, 2)), jax.nn.relu(x).mean((1, 2))]
    judge = normalised(jnp.concatenate(judged, 1) @ p["w_judge"], "judge")
    embedding = hidden @ p["w_embedding"] + p["b_embedding"]
    if "w_manner" in p:
        manner = (p["w_manner"].astype(jnp.float32) - 128.0) * p["s_manner"]
        embedding += error.reshape(len(error), -1) @ manner @ p["w_read"]
    return (hidden @ p["w_traits"] + p["b_traits"], judge @ p["w_corruption"] + p["b_corruption"],
            embedding, maps, error, (guess, latent))


def folded(p, batches):
    """The same network with normalisation fixed to the mean statistics of `batches`, folded into the weights."""
    @jax.jit
    def statistics(pixels):
        tap = {}
        auditor(p, pixels, tap)
        return tap

    taps = [statistics(pixels) for pixels in batches]
    out = {k: v for k, v in p.items() if not k.startswith("g_")}
    for name in taps[0]:
        mean, variance = (np.mean([np.asarray(tap[name][part]) for tap in taps], 0) for part in (0, 1))
        factor = np.asarray(p[f"g_{name}"]) / np.sqrt(variance + NORM_FLOOR)
        out[f"w_{name}"] = np.asarray(p[f"w_{name}"]) * factor
        out[f"b_{name}"] = np.asarray(p[f"b_{name}"]) - mean * factor
    return out

"""Pieces that every network shares. Layout is batch, height, width, channel."""

import jax
import jax.numpy as jnp
import numpy as np


def conv(x, w, stride=1):
    padding = ((1, 1), (1, 1)) if w.shape[0] == 3 else "SAME"
    return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def near(x, w):
    """A 3 x 3 convolution of each channel by itself."""
    h, v = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i:i + h, j:j + v] * w[i, j, 0] for i in range(3) for j in range(3))


def depth_to_space(x, growth=2):
    """Spreads each place's channels over `growth` x `growth` places."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, growth, growth, c // growth ** 2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h * growth, w * growth, c // growth ** 2)


def layer_weights(source, *shape, gain=2.0):
    fan_in = int(np.prod(shape[:-1]))
    return (source.standard_normal(shape) * np.sqrt(gain / fan_in)).astype(np.float32)

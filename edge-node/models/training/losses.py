"""How far what a generator makes is from what it should make."""

import jax.numpy as jnp
import numpy as np

from generator import mixed
from guide import FINE, feature_distance, trait_loss

# The item's middle, where gem and ornament lie, weighs about three times the corners.
_place = (np.arange(64) - 31.5) / 32.0
MIDDLE = (0.6 + 1.2 * np.exp(-(_place[:, None] ** 2 + _place[None, :] ** 2) / 0.3)).astype(np.float32)[..., None]


def map_loss(made, wanted, sharp):
    """Squared errors, and `sharp` times absolute errors, of levels and of neighbours' differences."""
    error = made - wanted
    across, down = error[:, :, 1:] - error[:, :, :-1], error[:, 1:] - error[:, :-1]

    def mean(values):
        height, width = values.shape[1:3]
        return (values * MIDDLE[:height, :width]).mean()
    square = mean(jnp.square(error)) + 0.5 * (mean(jnp.square(across)) + mean(jnp.square(down)))
    absolute = mean(jnp.abs(error)) + 0.5 * (mean(jnp.abs(across)) + mean(jnp.abs(down)))
    return 4.0 * square + sharp * absolute


def parts_loss(made, wanted, done):
    """Of (shares, colours) against (shares, colours): the parts themselves and the picture that they make.

    Absolute errors keep edges sharp, but reward a flat picture while nothing is known: they join after the start.
    """
    sharp = jnp.clip(done * 12.0 - 0.4, 0.0, 1.0)
    return (map_loss(mixed(*made), mixed(*wanted), sharp) + 3.0 * map_loss(made[0], wanted[0], sharp)
            + 2.0 * jnp.square(made[1] - wanted[1]).mean())


def guided_loss(guide_weights, made, wanted, traits):
    """What the guide sees: near feature maps, and every trait legible."""
    made, wanted = (jnp.clip(mixed(*parts), 0.0, 1.0) for parts in (made, wanted))
    features, logits = feature_distance(guide_weights, made, wanted)
    return 0.05 * features + 0.005 * trait_loss(logits, traits, FINE)

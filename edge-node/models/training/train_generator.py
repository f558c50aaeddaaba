"""Trains the guide and the generators; weights go to the cache folder as .npz files.

    python train_generator.py guide|teacher|small|smaller|exact [--steps N]
"""

import argparse

from training import BATCH, SEED, load, loop, save

import jax
import jax.numpy as jnp
import numpy as np

from data import CACHE, SHARE_UNIT, draw_inputs, named_set, one_hot, training_shares
from exact import activation_bits, exact_generator, exact_parts
from generator import SHAPES, generator, generator_parts, generator_weights
from guide import guide_loss, guide_weights
from losses import guided_loss, parts_loss
from renderer import colours

STEPS = {"guide": 2500, "teacher": 8000, "small": 2400, "smaller": 2400, "exact": 120}
LESSONS = 12000            # pictures of the teacher that its students learn from


def batches(seed, traits, *parts):
    """Endless shuffled batches of the arrays, cut alike."""
    source = np.random.default_rng(seed)
    while True:
        order = source.permutation(len(traits))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            pick = order[start:start + BATCH]
            yield traits[pick], *(part[pick] for part in parts)


def share_batches(seed, *sets):
    """Batches of traits, latents, shares and colours out of sets of (indices, latent, shares as bytes, colours)."""
    indices, latent, shares, given = (np.concatenate([s[i] for s in sets]) for i in range(4))
    for traits, z, shown, mixed_of in batches(seed, one_hot(indices), latent, shares, given):
        yield traits, z, shown.astype(np.float32) / np.float32(SHARE_UNIT), mixed_of


def truth(count=None):
    """What the renderer shows of the training set's first `count` inputs."""
    indices, latent, _, shares = training_shares()
    indices, latent = indices[:count], latent[:count]
    return indices, latent, shares[:count], np.stack([colours(i, z) for i, z in zip(indices, latent)])


def weights_of(variant):
    """Trained weights, and for the exact variant the powers of two of its activations (else none)."""
    held = load(variant)
    bits = {k[5:]: int(v) for k, v in held.items() if k.startswith("bits_")}
    return {k: v for k, v in held.items() if not k.startswith("bits_")}, bits


def pictures_of(variant, indices, latent):
    """What a trained variant makes of these inputs, as uint8."""
    weights, bits = weights_of(variant)
    shape, traits = SHAPES[variant], one_hot(indices)
    if variant == "exact":
        make = jax.jit(lambda t, z: exact_generator(weights, bits, t, z))
    else:
        make = jax.jit(lambda t, z: jnp.floor(jnp.clip(generator(weights, shape, t, z) * 255.0 + 0.5, 0, 255)))
    return np.concatenate([np.asarray(make(traits[i:i + 50], latent[i:i + 50])).astype(np.uint8)
                           for i in range(0, len(traits), 50)])


def generated(count, seed, variant):
    """Pictures of a trained variant with the inputs that made them."""
    indices, latent = draw_inputs(count, seed)
    return indices, latent, pictures_of(variant, indices, latent)


def step_factor(name):
    """Few inputs reach a table's row, so it can take long steps; the dense layers that all pass would die of them."""
    if name.startswith("w_template") and name[-1].isdigit():
        return 5.0
    return 0.3 if name[2:] in ("hidden", "style") else 1.0


def train_guide(steps):
    indices, latent, pixels = named_set("training")

    def data():
        for traits, z, picture in batches(SEED + 6, one_hot(indices), latent, pixels):
            yield traits, z, picture.astype(np.float32) / np.float32(255.0)
    save("guide", loop("guide", guide_weights(SEED + 5), guide_loss, data(), steps, 1.5e-3))


def late(done, guide_held, made, wanted, traits):
    """What the guide sees counts in the second half: from the start it leads to flat pictures."""
    return jax.lax.cond(done > 0.5, lambda: guided_loss(guide_held, made, wanted, traits), lambda: 0.0)


def train_teacher(steps):
    """On the renderer's shares."""
    shape, data, guide_held = SHAPES["teacher"], share_batches(SEED, truth()), load("guide")

    def loss(p, done, traits, latent, *wanted):
        made = generator_parts(p, shape, traits, latent)
        return parts_loss(made, wanted, done) + late(done, guide_held, made, wanted, traits)
    save("teacher", loop("teacher", generator_weights(shape, SEED), loss, data, steps, 3e-3, step_factor))
    keep_lessons()


def keep_lessons():
    """The teacher's shares and colours of inputs that no set holds, for its students."""
    indices, latent = draw_inputs(LESSONS, SEED + 2, "in training")
    weights, shape, traits = load("teacher"), SHAPES["teacher"], one_hot(indices)
    make = jax.jit(lambda t, z: generator_parts(weights, shape, t, z))
    made = [make(traits[i:i + 50], latent[i:i + 50]) for i in range(0, LESSONS, 50)]
    shares = [np.clip(np.asarray(s) * SHARE_UNIT + 0.5, 0, 255).astype(np.uint8) for s, _ in made]
    np.savez(CACHE / "lessons.npz", shares=np.concatenate(shares), colours=np.concatenate([c for _, c in made]))


def lessons(seed):
    """Batches for a student: half what the teacher shows, half what the renderer does."""
    indices, latent = draw_inputs(LESSONS, SEED + 2, "in training")
    with np.load(CACHE / "lessons.npz") as held:
        taught = indices, latent, held["shares"], held["colours"]
    return share_batches(seed, taught, truth(LESSONS))


def train_student(name, seed, steps):
    shape, guide_held = SHAPES[name], load("guide")

    def loss(p, done, traits, latent, *wanted):
        made = generator_parts(p, shape, traits, latent)
        return parts_loss(made, wanted, done) + late(done, guide_held, made, wanted, traits)
    save(name, loop(name, generator_weights(shape, seed), loss, lessons(seed), steps, 2.5e-3, step_factor))


def train_small(steps):
    train_student("small", SEED + 21, steps)


def train_smaller(steps):
    train_student("smaller", SEED + 22, steps)


def train_exact(steps):
    """From the small variant's weights, with the rounding in the loop."""
    weights, guide_held = load("small"), load("guide")
    indices, latent, _ = named_set("check")
    bits = activation_bits(weights, one_hot(indices[:512]), latent[:512])

    def loss(p, done, traits, latent, *wanted):
        shares, given = exact_parts(p, bits, traits, latent)
        made = shares, given / 255.0
        return parts_loss(made, wanted, 1.0) + guided_loss(guide_held, made, wanted, traits)
    weights = loop("exact", weights, loss, lessons(SEED + 23), steps, 2e-4)
    save("exact", weights | {f"bits_{name}": np.int32(value) for name, value in bits.items()})


if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("stage", choices=list(STEPS))
    ask.add_argument("--steps", type=int)
    said = ask.parse_args()
    globals()[f"train_{said.stage}"](STEPS[said.stage] if said.steps is None else said.steps)

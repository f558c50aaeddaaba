"""Trains generator, exact generator and auditor; weights go to the cache folder as .npz files.

    python train.py generator|settle|pairs|polish|exact|auditor-base|auditor [--steps N]
"""

import argparse
import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads=2")

import jax
import jax.numpy as jnp
import numpy as np
import optax

import models
from corruption import SEEN, damage
from data import CACHE, dataset, one_hot
from vocabulary import CARDINALITIES, OFFSETS

SEED = 20261121
TRAIN_COUNT = int(os.environ.get("KARAT_TRAIN_COUNT", 24000))
TRAIN_SEED, CHECK_COUNT, CHECK_SEED = 1, 2000, 2
STEPS = {"generator": 6000, "settle": 6000, "pairs": 4000, "polish": 5000, "exact": 300, "auditor-base": 5000, "auditor": 2500}
BATCH = 16
RAMP = 16000


# The item's middle, where gem and ornament lie, weighs about three times the corners.
_place = (np.arange(64) - 31.5) / 32.0
MIDDLE = (0.6 + 1.2 * np.exp(-(_place[:, None] ** 2 + _place[None, :] ** 2) / 0.3)).astype(np.float32)[..., None]


def save(name, weights):
    CACHE.mkdir(parents=True, exist_ok=True)
    np.savez(CACHE / f"{name}.npz", **{k: np.asarray(v) for k, v in weights.items()})


def load(name):
    with np.load(CACHE / f"{name}.npz") as held:
        return {k: held[k] for k in held.files}


def optimizer(steps, peak, fall):
    """Adam: a short warm-up, then level, and the last `fall` steps straight down to nothing."""
    rise = min(300, steps // 10)
    schedule = optax.join_schedules(
        [optax.linear_schedule(peak / 20, peak, rise), optax.constant_schedule(peak),
         optax.linear_schedule(peak, peak / 100, max(fall, 1))], [rise, max(steps - fall, rise)])
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b1=0.9, b2=0.99))


def picture_loss(made, wanted, share=1.0):
    """Squared error, and in time absolute errors of levels and of neighbours' differences.

    The absolute terms keep edges sharp, but from the start they reward a flat grey picture and
    the rectifiers die; `share` (steps done / RAMP) brings them in between 0.03 and 0.2.
    """
    error = made - wanted
    across, down = error[:, :, 1:] - error[:, :, :-1], error[:, 1:] - error[:, :-1]

    def mean(values):
        height, width = values.shape[1:3]
        return (values * MIDDLE[:height, :width]).mean()
    square = mean(jnp.square(error)) + 0.5 * (mean(jnp.square(across)) + mean(jnp.square(down)))
    sharp = mean(jnp.abs(error)) + 0.5 * (mean(jnp.abs(across)) + mean(jnp.abs(down)))
    return 4.0 * square + jnp.clip((share - 0.03) * 6.0, 0.0, 1.0) * sharp


def loop(label, weights, loss, batches, steps, peak, fall=None):
    tool = optimizer(steps, peak, steps // 4 if fall is None else fall)
    state = tool.init(weights)

    @jax.jit
    def step(weights, state, share, *batch):
        value, slope = jax.value_and_grad(loss)(weights, share, *batch)
        change, state = tool.update(slope, state, weights)
        return optax.apply_updates(weights, change), state, value

    begun, seen = time.time(), []
    for i in range(1, steps + 1):
        weights, state, value = step(weights, state, np.float32(i / RAMP), *next(batches))
        seen.append(value)
        if i % 500 == 0 or i == steps:
            print(f"{label} {i}/{steps} loss {float(np.mean(seen)):.5f} {time.time() - begun:.0f} s", flush=True)
            seen = []
        if i % 2000 == 0:
            save(f"{label}-so-far", weights)
    return weights


def picture_batches(seed):
    indices, latent, pixels = dataset(TRAIN_COUNT, TRAIN_SEED)
    traits, source = one_hot(indices), np.random.default_rng(seed)
    pixels = np.asarray(pixels)
    while True:
        order = source.permutation(len(traits))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            pick = order[start:start + BATCH]
            yield traits[pick], latent[pick], pixels[pick].astype(np.float32) / 255.0


def generator_loss(p, share, traits, latent, wanted):
    return picture_loss(models.generator(p, traits, latent), wanted, share)


def train_generator(steps):
    save("generator-level", loop("generator", models.generator_weights(SEED), generator_loss,
                                 picture_batches(SEED), steps, 2.5e-3, fall=0))


def train_settle(steps):
    """Half of the way down to small steps, which takes the coarse noise out of the pictures."""
    def loss(p, _, traits, latent, wanted):
        return picture_loss(models.generator(p, traits, latent), wanted)
    save("generator-settled", loop("settle", load("generator-level"), loss, picture_batches(SEED + 1), steps, 2e-3, fall=7900))


def reader_loss():
    """What the auditor sees: feature maps near the wanted picture's, and every trait legible.

    Small details (a gem's colour, an engraving) are few pixels but whole traits; this gives them weight.
    """
    base = load("auditor-base")
    reader = models.folded(base, reader_sample())

    def loss(made, wanted, traits):
        features = []
        both = jnp.concatenate([jnp.clip(made, 0.0, 1.0), wanted]) * 255.0
        logits, _, _ = models.auditor(reader, both, features=features)
        total, count = 0.0, len(made)
        for layer in features[:3]:
            total += jnp.abs(layer[:count] - layer[count:]).mean() / (jnp.abs(layer[count:]).mean() + 1e-3)
        wrong = 0.0
        for low, high in zip(OFFSETS, OFFSETS[1:]):
            wrong += optax.softmax_cross_entropy(logits[:count, low:high], traits[:, low:high]).mean()
        return 0.08 * total + 0.02 * wrong
    return loss


def reader_sample():
    """Renderer pictures and damaged ones, for the statistics of the normalisation."""
    pixels = np.asarray(dataset(CHECK_COUNT, CHECK_SEED)[2][:400])
    return np.concatenate([pixels, damage(pixels, SEEN, SEED + 11)[0]]).astype(np.float32)


def polish_loss():
    seen = reader_loss()

    def loss(p, _, traits, latent, wanted):
        made = models.generator(p, traits, latent)
        return picture_loss(made, wanted) + seen(made, wanted, traits)
    return loss


def train_pairs(steps):
    """Further down, with the pairs' layer and the auditor's eyes."""
    weights = models.with_pairs(load("generator-settled"))
    save("generator-pairs", loop("pairs", weights, polish_loss(), picture_batches(SEED + 12), steps, 1.5e-3, fall=5700))


def train_polish(steps):
    """The last part, with idle units put to use."""
    indices, latent, _ = dataset(TRAIN_COUNT, TRAIN_SEED)
    weights = models.revived(load("generator-pairs"), one_hot(indices[:3000]), latent[:3000], SEED + 13)
    save("generator", loop("polish", weights, polish_loss(), picture_batches(SEED + 14), steps, 1.5e-3, fall=steps - 300))


def train_exact(steps):
    weights = load("generator")
    indices, latent, _ = dataset(CHECK_COUNT, CHECK_SEED)
    bits = models.activation_bits(weights, one_hot(indices[:512]), latent[:512])

    seen = reader_loss()

    def loss(p, _, traits, latent, wanted):
        made = models.exact_generator(p, bits, traits, latent) / 255.0
        return picture_loss(made, wanted) + seen(made, wanted, traits)
    if steps:
        weights = loop("exact", weights, loss, picture_batches(SEED + 1), steps, 2e-4)
    save("exact", weights | {f"bits_{k}": np.int32(v) for k, v in bits.items()})


def exact_parts(held):
    weights = {k: v for k, v in held.items() if not k.startswith("bits_")}
    return weights, {k[5:]: int(v) for k, v in held.items() if k.startswith("bits_")}


def generated(count, seed, exact):
    """Generator pictures with the inputs that made them."""
    from data import draw_inputs
    indices, latent = draw_inputs(count, seed)
    traits = one_hot(indices)
    if exact:
        weights, bits = exact_parts(load("exact"))
        make = jax.jit(lambda t, z: models.exact_generator(weights, bits, t, z))
    else:
        weights = load("generator")
        make = jax.jit(lambda t, z: jnp.floor(jnp.clip(models.generator(weights, t, z) * 255.0 + 0.5, 0, 255)))
    pixels = [np.asarray(make(traits[i:i + 50], latent[i:i + 50])).astype(np.uint8) for i in range(0, count, 50)]
    return indices, latent, np.concatenate(pixels)


def embedding_target(indices, latent):
    """A fixed random projection: near pictures (same traits, near latents) are near, others far."""
    plan = np.random.default_rng(7).standard_normal((sum(CARDINALITIES) + latent.shape[1], models.EMBEDDING))
    parts = np.concatenate([one_hot(indices), 0.35 * latent], 1)
    return (parts @ plan / np.sqrt(models.EMBEDDING)).astype(np.float32)


def trait_loss(logits, indices):
    total = 0.0
    for trait, (low, high) in enumerate(zip(OFFSETS, OFFSETS[1:])):
        total += optax.softmax_cross_entropy_with_integer_labels(logits[:, low:high], indices[:, trait]).mean()
    return total


def auditor_batches(seed, with_generator):
    """Half sound, half damaged; sound ones half from the generator where there is one."""
    sets = [tuple(np.asarray(part) for part in dataset(TRAIN_COUNT, TRAIN_SEED))]
    if with_generator:
        sets += [generated(10000, SEED + 2, False), generated(6000, SEED + 3, True)]
    indices, latent, pixels = (np.concatenate([s[i] for s in sets]) for i in range(3))
    target = embedding_target(indices, latent)
    source = np.random.default_rng(seed)
    real, made = np.arange(TRAIN_COUNT), np.arange(TRAIN_COUNT if with_generator else 0, len(pixels))
    pick = np.concatenate([source.choice(real, 12000), source.choice(made, 12000)])
    pool, _ = damage(pixels[pick], SEEN, seed + 1)
    half = BATCH // 2
    while True:
        sound = np.concatenate([source.choice(real, half), source.choice(made, half)])
        broken = source.integers(0, len(pool), BATCH)
        yield (np.concatenate([pixels[sound], pool[broken]]).astype(np.float32), indices[sound], target[sound])


def auditor_loss(p, _, pixels, indices, target):
    truth = np.repeat([0.0, 1.0], BATCH).astype(np.float32)
    logits, corruption, embedding = models.auditor(p, pixels)
    wrong = optax.sigmoid_binary_cross_entropy(corruption[:, 0], truth).mean()
    return (trait_loss(logits[:BATCH], indices) + 2.0 * wrong
            + 0.5 * jnp.square(embedding[:BATCH] - target).mean())


def train_auditor_base(steps):
    """On the renderer's pictures alone; needs no generator."""
    weights = loop("auditor-base", models.auditor_weights(SEED + 5), auditor_loss,
                   auditor_batches(SEED + 6, False), steps, 2e-3)
    save("auditor-base", weights)


def train_auditor(steps):
    batches = auditor_batches(SEED + 7, True)
    weights = loop("auditor", load("auditor-base"), auditor_loss, batches, steps, 1e-3)
    sample = np.concatenate([next(batches)[0] for _ in range(40)])
    save("auditor", calibrated(models.folded(weights, sample)))


def calibrated(weights):
    """Fits slope and offset of the corruption logit on held-out pictures and folds them in."""
    pixels = np.concatenate([np.asarray(dataset(CHECK_COUNT, CHECK_SEED)[2]),
                             generated(1000, SEED + 8, False)[2], generated(1000, SEED + 9, True)[2]])
    broken, _ = damage(pixels, SEEN, SEED + 10)
    ask = jax.jit(lambda x: models.auditor(weights, x)[1][:, 0])
    both = np.concatenate([pixels, broken])
    logit = np.concatenate([np.asarray(ask(both[i:i + 100].astype(np.float32))) for i in range(0, len(both), 100)])
    truth = np.repeat([0.0, 1.0], len(pixels))
    fit = jnp.array([1.0, 0.0])
    tool = optax.adam(0.02)
    state = tool.init(fit)
    slope = jax.jit(jax.grad(lambda f: optax.sigmoid_binary_cross_entropy(logit * f[0] + f[1], truth).mean()))
    for _ in range(600):
        change, state = tool.update(slope(fit), state)
        fit = optax.apply_updates(fit, change)
    print("calibration slope and offset", [round(float(v), 3) for v in fit])
    out = dict(weights)
    out["w_corruption"] = weights["w_corruption"] * fit[0]
    out["b_corruption"] = weights["b_corruption"] * fit[0] + fit[1]
    return out


def main():
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("model", choices=list(STEPS))
    ask.add_argument("--steps", type=int)
    said = ask.parse_args()
    steps = STEPS[said.model] if said.steps is None else said.steps
    {"generator": train_generator, "settle": train_settle, "pairs": train_pairs, "polish": train_polish, "exact": train_exact,
     "auditor-base": train_auditor_base, "auditor": train_auditor}[said.model](steps)


if __name__ == "__main__":
    main()

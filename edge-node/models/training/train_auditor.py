"""Trains the auditor; weights go to the cache folder as .npz files.

    python train_auditor.py drawer|base|final [--steps N]

drawer  the part that draws what the picture should show, from true traits and latents
base    the whole on the renderer's pictures alone; needs no generator
final   with the exported generators' pictures, calibration, and the embedding that is exported

Traits are learnt from the renderer's pictures only: labels of generated pictures would teach the
auditor to excuse the generators. What counts as sound is learnt from all of them.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import auditor
import drawer
from auditor_data import BASE, FINAL, Feed, faulty_pictures, generator_pictures, renderer_pictures
from corruption import damage
from corruption_kinds import SEEN
from data import SETS, SHARE_UNIT, one_hot, training_shares
from embedding import fitted
from renderer import colours
from runtime import VARIANTS
from training import SEED, load, loop, save
from vocabulary import CARDINALITIES, OFFSETS

# By stage: batch, steps, largest step, seed of the batches.
STAGES = {"base": (BASE, 5000, 2e-3, SEED + 4), "final": (FINAL, 3600, 1e-3, SEED + 5)}
DRAWER_STEPS, DRAWER_BATCH = 4000, 16
AVERAGED = 0.998           # decay of the running mean of the weights, which is what is kept; less in a short stage
# Damaged pictures kept because they were missed, how many come back in a batch, and how often one does.
MISSED, REPEATED, TIMES = 200, 3, 3
SHARPNESS = 8.0            # how fast likeness falls with the squared distance of embeddings


def trait_loss(logits, indices):
    total = 0.0
    for trait, (low, high) in enumerate(zip(OFFSETS, OFFSETS[1:])):
        total += optax.softmax_cross_entropy_with_integer_labels(logits[:, low:high], indices[:, trait]).mean()
    return total


def evidence_loss(logits, targets, form):
    """Sound pictures show evidence nowhere, damaged ones where the target says 1."""
    damaged = logits[form.sound:form.copies]
    wrong = optax.sigmoid_binary_cross_entropy(damaged, jnp.maximum(targets, 0).astype(jnp.float32))
    none = optax.sigmoid_binary_cross_entropy(logits[:form.sound], 0.0)
    return jnp.where(targets >= 0, wrong, 0.0).mean() + none.mean()


def likeness_loss(embedding, form):
    """Every near-copy must be nearer to its source than to any other sound picture of the batch."""
    sound, copies = embedding[:form.sound], embedding[form.copies:]
    sound, copies = (part / jnp.sqrt(sound.var(0) + 1e-3) for part in (sound, copies))
    distance = jnp.square(copies[:, None] - sound[None]).mean(2)
    return optax.softmax_cross_entropy_with_integer_labels(-SHARPNESS * distance, np.array(form.sources)).mean()


def guess_loss(guess, traits, latent):
    """What the drawer is given: every trait's values apart, and the latent."""
    return optax.sigmoid_binary_cross_entropy(guess[0], traits).sum(1).mean() + 4.0 * jnp.square(guess[1] - latent).mean()


def auditor_loss(p, form, pixels, indices, latents, *targets):
    logits, corruption, embedding, maps, error, guess = auditor.auditor(p, pixels)
    truth = np.repeat([0.0, 1.0], [form.sound, form.damaged]).astype(np.float32)
    wrong = optax.sigmoid_binary_cross_entropy(corruption[:form.copies, 0], truth)
    real = np.concatenate([np.arange(form.rendered), form.copies + np.arange(form.rendered_pairs)])
    labels, latent = (jnp.concatenate([held[:form.rendered], held[form.sound:form.sound + form.rendered_pairs]])
                      for held in (indices, latents))
    traits = jnp.concatenate([jax.nn.one_hot(labels[:, i], count) for i, count in enumerate(CARDINALITIES)], 1)
    parts = (trait_loss(logits[real], labels),
             wrong[:form.sound].mean() + wrong[form.sound:].mean(),
             sum(evidence_loss(seen, target, form) for seen, target in zip(maps, targets)),
             likeness_loss(embedding, form), jnp.abs(error[:form.sound]).mean(), guess_loss([part[real] for part in guess], traits, latent))
    total = parts[0] + parts[1] + 1.5 * parts[2] + 0.3 * parts[3] + 0.3 * parts[5]
    return total, (jnp.stack(parts), corruption[form.sound:form.copies, 0])


class Missed:
    """Damaged pictures that were taken for sound; some of them come back in every batch, each a few times at most."""

    def __init__(self, seed):
        self.held, self.random, self.times = [], np.random.default_rng(seed), {}

    def mix_in(self, form, pixels, targets):
        """Puts pictures from here in the first places of the damaged ones."""
        self.times = {}
        if len(self.held) < 5 * REPEATED:
            return
        for place in range(REPEATED):
            which = int(self.random.integers(0, len(self.held)))
            (times, picture, *kept), self.held[which] = self.held[which], self.held[-1]
            self.held.pop()
            pixels[form.sound + place], self.times[place] = picture, times + 1
            for target, held in zip(targets, kept):
                target[place] = held

    def keep(self, form, pixels, targets, logit):
        for place in np.flatnonzero(logit < 1.0):
            times = self.times.get(int(place), 0)
            if times < TIMES and len(self.held) < MISSED:
                self.held.append((times, pixels[form.sound + place].copy(), *(target[place].copy() for target in targets)))


def train_drawer(steps):
    """Batches of true traits and latents, and the halved shares and colours that the renderer gives them."""
    indices, latent, _, whole = training_shares()
    shares = np.concatenate([drawer.gathered(whole[i:i + 500].astype(np.float32)) for i in range(0, len(whole), 500)])
    shares, given = np.round(shares).astype(np.uint8), np.stack([colours(i, z) for i, z in zip(indices, latent)])
    traits, random = one_hot(indices), np.random.default_rng(SEED + 7)

    def batches():
        while True:
            pick = random.integers(0, len(indices), DRAWER_BATCH)
            yield traits[pick], latent[pick], shares[pick].astype(np.float32) / np.float32(SHARE_UNIT), given[pick]
    save("drawer", loop("drawer", drawer.drawer_weights(SEED + 8), drawer.drawer_loss, batches(), steps, 3e-3,
                        lambda name: 5.0 if "template" in name else 1.0))


def train(stage, weights, steps):
    form, _, peak, seed = STAGES[stage]
    rise, keep = min(200, steps // 10), min(AVERAGED, max(0.0, 1.0 - 8.0 / steps))
    schedule = optax.warmup_cosine_decay_schedule(peak / 20, peak, rise, steps, peak / 100)
    tool = optax.chain(optax.clip_by_global_norm(2.0), optax.adamw(schedule, b1=0.9, b2=0.99, weight_decay=1e-4))
    state = tool.init(weights)

    @jax.jit
    def step(weights, state, mean, *batch):
        (_, seen), slope = jax.value_and_grad(auditor_loss, has_aux=True)(weights, form, *batch)
        change, state = tool.update(slope, state, weights)
        weights = optax.apply_updates(weights, change)
        return weights, state, jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, mean, weights), seen

    feed, missed, mean, told = Feed(form, seed), Missed(SEED + 6), weights, []
    begun, worked = time.time(), time.process_time()
    for i in range(1, steps + 1):
        pixels, indices, latents, *targets = next(feed)
        missed.mix_in(form, pixels, targets)
        weights, state, mean, (parts, logit) = step(weights, state, mean, pixels, indices, latents, *targets)
        missed.keep(form, pixels, targets, np.asarray(logit))
        told.append((*np.asarray(parts), (np.asarray(logit) < 0).mean()))
        if i % 200 == 0 or i == steps:
            figures = " ".join(f"{v:.4f}" for v in np.mean(told, 0))
            print(f"{stage} {i}/{steps} traits, corruption, evidence, likeness, drawing, guess, missed: {figures}; "
                  f"{len(missed.held)} held; {time.time() - begun:.0f} s, {time.process_time() - worked:.0f} s of processor", flush=True)
            told = []
    sample = [next(feed)[0] for _ in range(100)]
    feed.close()
    return mean, auditor.folded(mean, sample)


def check_pictures():
    """Sound pictures that no training saw, and the same damaged by the trained kinds."""
    count, seed, keep = SETS["check"]
    twins = count // 2
    sources = [renderer_pictures(count, seed, keep, twins)]
    sources += [generator_pictures(name, twins, seed, 0) for name in VARIANTS]
    broken = [damage(s.pixels[:twins], SEEN, SEED + 10 + i, s.twins)[0] for i, s in enumerate(sources)]
    broken += list(faulty_pictures(count // 8, SEED + 90).values())
    return np.concatenate([s.pixels for s in sources]), np.concatenate(broken)


def calibrated(weights):
    """Fits slope and offset of the corruption logit on held-out pictures and folds them in."""
    sound, broken = check_pictures()
    both = np.concatenate([sound, broken])
    ask = jax.jit(lambda x: auditor.auditor(weights, x)[1][:, 0])
    logit = np.concatenate([np.asarray(ask(both[i:i + 100])) for i in range(0, len(both), 100)])
    truth = np.repeat([0.0, 1.0], [len(sound), len(broken)])
    # Both sorts weigh the same, whatever their number.
    weight = np.repeat([0.5 / len(sound), 0.5 / len(broken)], [len(sound), len(broken)])
    fit = jnp.array([1.0, 0.0])
    tool = optax.adam(0.02)
    state = tool.init(fit)
    slope = jax.jit(jax.grad(lambda f: (weight * optax.sigmoid_binary_cross_entropy(logit * f[0] + f[1], truth)).sum()))
    for _ in range(600):
        change, state = tool.update(slope(fit), state)
        fit = optax.apply_updates(fit, change)
    print("calibration slope and offset", [round(float(v), 3) for v in fit])
    out = dict(weights)
    out["w_corruption"] = weights["w_corruption"] * fit[0]
    out["b_corruption"] = weights["b_corruption"] * fit[0] + fit[1]
    return out


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("stage", choices=["drawer", *STAGES])
    ask.add_argument("--steps", type=int)
    said = ask.parse_args()
    if said.stage == "drawer":
        train_drawer(said.steps or DRAWER_STEPS)
        return
    steps = said.steps or STAGES[said.stage][1]
    before = auditor.auditor_weights(SEED + 5) | load("drawer") if said.stage == "base" else load("auditor-base")
    weights, fixed = train(said.stage, before, steps)
    save(f"auditor-{said.stage}", weights)
    if said.stage == "final":
        save("auditor", fitted(calibrated(fixed)))


if __name__ == "__main__":
    main()

"""Measures the auditor's embedding: near-duplicates within a collection, and drift of windows.

Distance of two embeddings: sqrt(mean_i(((a_i - b_i) / deviation_i)^2)), with the deviation of the small variant's sound
pictures. For drift every embedding is first put in units of its own variant's reference, x_i = (a_i - mean_i) / deviation_i,
so that what tells variants apart is no drift; a window whose x have mean m and standard deviation s is off by
sqrt(mean_i(m_i^2 + (s_i - 1)^2)). References: sound pictures drawn by the traits' weights.
"""

import numpy as np

import near_copies
from corruption import damage
from corruption_kinds import SEEN
from evaluate_generator import allowed
from runtime import GENERATORS, ask, generate, session
from training import SEED
from vocabulary import LATENT_LENGTH, NAMES, TRAITS

COLLECTION = 3000          # items: 4.5 million pairs
COPIES = 600               # near-copies of each sort
FALSE_MATCHES = (1e-6, 1e-5, 1e-4, 1e-3)
# The share of a collection's pairs that near_duplicate_ppm lets through. What matches goes to people, and each of n remembered
# items has n times this share of matches that are no copies: 1 % of 10,000, 7 % of the 65,536 that an engine remembers by
# default. Nearly all of them have equal traits throughout and differ in the latent alone.
CHOSEN = 1e-6
# A window of n sound assets is off by chance by about sqrt(1.5 / n): 0.077 of 256, which hid a material three times as
# frequent as it should be (0.07 to 0.11), 0.038 of 1024.
WINDOW, WINDOWS = 1024, 1000
REFERENCE = 4000           # sound pictures of each variant that its reference is of
POOL = 3000                # pictures of each sort that windows are drawn from
MARGIN = 1.05              # of the drift alarm over the 99.9 % quantile of sound windows of the worst variant


def drawn(count, seed, weights=None):
    """Trait indices by the traits' weights (or others, by trait name), without forbidden pairs, and latents."""
    random, weights = np.random.default_rng(seed), weights or {}
    shares = [np.array(weights.get(name, plain), float) for name, _, plain in TRAITS]
    indices = np.empty((0, len(TRAITS)), np.int32)
    while len(indices) < count:
        more = np.stack([random.choice(len(w), count, p=w / w.sum()) for w in shares], 1).astype(np.int32)
        indices = np.concatenate([indices, more[allowed(more)]])
    return indices[:count], random.uniform(-1, 1, (count, LATENT_LENGTH)).astype(np.float32)


def reference(auditor, pixels):
    """Mean and deviation of the embedding over sound pictures."""
    raw = ask(auditor, pixels)[2]
    return raw.mean(0), raw.std(0)


def embedder(auditor, mean, deviation):
    """The embedding in units of a reference."""
    return lambda pixels: (ask(auditor, pixels)[2] - mean) / deviation


def distance(a, b):
    return np.sqrt(np.square(a - b).mean(1))


def pair_distances(e):
    """Of all pairs of different items."""
    square = np.square(e).sum(1)
    out = []
    for start in range(0, len(e), 500):
        part = square[start:start + 500, None] + square - 2 * e[start:start + 500] @ e.T
        below = np.arange(len(e)) > start + np.arange(len(part))[:, None]
        out.append(np.sqrt(np.maximum(part[below], 0) / e.shape[1]))
    return np.concatenate(out)


def near_copies_of(model, indices, latent, pixels):
    """By sort: near-copies of items of the small variant."""
    random = np.random.default_rng(SEED + 120)
    out = {}
    for count in (1, 2):
        other = near_copies.altered(indices, random, count)
        out[f"{count} trait{'s' if count > 1 else ''} altered"] = generate(model, other, latent)
    out["small step in latent"] = generate(model, indices, near_copies.stepped(latent, random))
    for change in near_copies.RETOUCHES:
        made = [np.clip(change(p.astype(np.float32), random) + 0.5, 0, 255).astype(np.uint8) for p in pixels]
        out[change.__name__] = np.stack(made)
    return out


def near_duplicates(embed, model):
    """The limit, chosen on one collection; false matches in another, and near-copies found, by sort."""
    first, second = (pair_distances(embed(generate(model, *drawn(COLLECTION, SEED + 121 + i)))) for i in (0, 1))
    limits = {share: float(np.quantile(first, share)) for share in FALSE_MATCHES}
    indices, latent = drawn(COPIES, SEED + 123)
    pixels = generate(model, indices, latent)
    home = embed(pixels)
    away = {sort: distance(home, embed(copies)) for sort, copies in near_copies_of(model, indices, latent, pixels).items()}
    lines = ["", "### Near-duplicates", "",
             f"Pairs within a collection of {COLLECTION} items of the small variant, drawn by the traits' weights "
             f"({len(first)} pairs); near-copies: {COPIES} of each sort. The limits come from another collection than the one counted here. "
             f"The manifest holds the limit for {CHOSEN:g}.", "",
             "| share of pairs let through, chosen | " + " | ".join(f"{share:g}" for share in limits) + " |",
             "| --- |" + " --- |" * len(limits),
             "| limit of distance | " + " | ".join(f"{limit:.4f}" for limit in limits.values()) + " |",
             "| the same, of the other collection | " + " | ".join(f"{(second < limit).mean():.2g}" for limit in limits.values()) + " |"]
    for sort, values in away.items():
        lines.append(f"| found: {sort} | " + " | ".join(f"{(values < limit).mean():.4f}" for limit in limits.values()) + " |")
    lines.append(f"\nMedian distance of two items: {np.median(second):.3f}.")
    return limits[CHOSEN], lines


def drift(e):
    return float(np.sqrt((np.square(e.mean(0)) + np.square(e.std(0) - 1)).mean()))


def windows(e, random, count=WINDOWS):
    return np.array([drift(e[random.choice(len(e), WINDOW)]) for _ in range(count)])


def alarm_level(embeds, models):
    """Above what sound windows of every variant show, from other pictures than those counted in the report."""
    random = np.random.default_rng(SEED + 129)
    sound = [windows(embeds[name](generate(model, *drawn(POOL, SEED + 130))), random) for name, model in models.items()]
    return MARGIN * max(float(np.quantile(values, 0.999)) for values in sound)


def drifts(embeds, models):
    """The alarm level, and the figures of sound and of drifted windows."""
    alarm, random = alarm_level(embeds, models), np.random.default_rng(SEED + 131)
    pools = {name: embeds[name](generate(model, *drawn(POOL, SEED + 132))) for name, model in models.items()}
    sound = {f"sound, {name}": windows(e, random) for name, e in pools.items()}
    sound["sound, all in equal parts"] = windows(np.concatenate(list(pools.values())), random)
    small, embed, other = models["small"], embeds["small"], {}

    def skewed(trait, value, factor):
        name, values, weights = TRAITS[NAMES.index(trait)]
        weights = [w * factor if v == value else w for v, w in zip(values, weights)]
        inputs = drawn(POOL, SEED + 133, {name: weights})
        other[f"{trait} {value} {factor:g} times as often"] = windows(embed(generate(small, *inputs)), random)

    for trait, value, factor in (("material", "gold", 1.5), ("material", "gold", 2), ("material", "gold", 3),
                                 ("background", "ember", 2), ("gem", "diamond", 3), ("gem", "diamond", 5), ("kind", "familiar", 2)):
        skewed(trait, value, factor)
    indices, latent = drawn(POOL, SEED + 134)
    other["latent stuck"] = windows(embed(generate(small, indices, np.repeat(latent[:1], len(latent), 0))), random)
    other["latent at half its range"] = windows(embed(generate(small, indices, latent / 2)), random)
    pixels = generate(small, indices, latent)
    plain = {name: kind for name, kind in SEEN.items() if name != "conflict"}     # which needs twins
    broken = embed(damage(pixels, plain, SEED + 135)[0])
    for share in (0.05, 0.2):
        count = round(share * WINDOW)
        other[f"{share:.0%} of it damaged"] = np.array([
            drift(np.concatenate([pools["small"][random.choice(POOL, WINDOW - count)],
                                  broken[random.choice(len(broken), count)]])) for _ in range(WINDOWS)])
    lines = ["", "### Drift", "", f"{WINDOWS} windows of {WINDOW} assets each, drawn anew from {POOL}; the alarm is at {alarm:.4f}, "
             f"{MARGIN} of what 99.9 % of other sound windows of the worst variant stay below. Every asset is measured against its own "
             "variant's reference. What drifts here is the small variant's.", "",
             "| windows | median | 99.9 % | alarmed |", "| --- | --- | --- | --- |"]
    for name, values in {**sound, **other}.items():
        lines.append(f"| {name} | {np.median(values):.4f} | {np.quantile(values, 0.999):.4f} | {(values > alarm).mean():.4f} |")
    return alarm, lines


def measure(auditor):
    """What the manifest says of the embedding, and the report's lines."""
    models = {name: session(path) for name, path in GENERATORS.items()}
    inputs = drawn(REFERENCE, SEED + 140)
    references = {name: reference(auditor, generate(model, *inputs)) for name, model in models.items()}
    embeds = {name: embedder(auditor, *of) for name, of in references.items()}
    limit, near_lines = near_duplicates(embeds["small"], models["small"])
    alarm, drift_lines = drifts(embeds, models)
    held = {"near_duplicate_ppm": int(limit * 1e6), "drift_window": WINDOW, "drift_alarm_ppm": int(np.ceil(alarm * 1e6)),
            "references": {name: [part.tolist() for part in of] for name, of in references.items()}}
    return held, near_lines + drift_lines

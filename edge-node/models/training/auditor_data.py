"""Pictures for the auditor: sets with twins from the renderer and the generators, and training batches.

The batches are made in a process of their own, anew for every step, and depend on the seed alone.
"""

import hashlib
import multiprocessing
from queue import Empty, Full

import numpy as np
import onnx
from onnx import numpy_helper

import corruption
import near_copies
from corruption_kinds import SEEN
from data import CACHE, SETS, dataset, draw_inputs, one_hot, rendered
from runtime import GENERATORS, generate, session
from training import SEED
from vocabulary import CARDINALITIES

TWINS, STEPS = SETS["training"][0] // 4, SETS["training"][0] // 12
GENERATED = {"teacher": 2000, "small": 2000, "smaller": 2000, "exact": 2000}
SOFTENED = 0.4             # share of the renderer's pictures that stand in, a little softened, for a generator's
FAULTY = 1500              # a generator's faulty pictures, for each way of being faulty
# Kinds that are hard to find, by how many times as often as others they are drawn: from the start, and at last.
HARD = dict.fromkeys(("occlusion", "channel_swap", "wrong_background", "blend", "cut", "conflict", "recoloured", "partial"), 3)
HARDEST = {"conflict": 6, "partial": 6, "stripes": 4} | dict.fromkeys(
    ("blur", "recompression", "wrong_background", "recoloured", "occlusion"), 3)
WAITING = 4                # batches made ahead


class Pictures:
    """Sound pictures with their traits; `twins` are near-copies of the first of them.

    Up to `aligned` a twin has the same latent and one or two other traits; beyond, the same traits
    and a latent a small step away.
    """

    def __init__(self, indices, latent, pixels, twin_indices, twin_latent, twins, aligned):
        self.indices, self.latent, self.pixels = indices, latent, pixels
        self.twin_indices, self.twin_latent, self.twins, self.aligned = twin_indices, twin_latent, twins, aligned


def twin_inputs(indices, latent, aligned, stepped, seed):
    random = np.random.default_rng(seed)
    twin_indices = np.concatenate([near_copies.altered(indices[:aligned], random), indices[aligned:aligned + stepped]])
    twin_latent = np.concatenate([latent[:aligned], near_copies.stepped(latent[aligned:aligned + stepped], random)])
    return twin_indices, twin_latent


def renderer_pictures(count, seed, keep="any", aligned=None, stepped=0):
    """Of `count` pictures the first `aligned` (all of them if None) have a twin with altered traits, the next `stepped` a stepped one."""
    indices, latent, pixels = dataset(count, seed, keep)
    aligned = count if aligned is None else aligned
    twin_indices, twin_latent = twin_inputs(indices, latent, aligned, stepped, SEED + seed)
    return Pictures(indices, latent, pixels, twin_indices, twin_latent, rendered(twin_indices, twin_latent), aligned)


def kept(path, make):
    """An array from the cache folder, made and stored where it is not there yet."""
    if not path.exists():
        scratch = path.with_suffix(".tmp.npy")
        np.save(scratch, make())
        scratch.rename(path)
    return np.load(path, mmap_mode="r")


def generator_pictures(variant, count, seed, stepped=None):
    """A generator's pictures, each with a twin from the same generator."""
    stepped = count // 3 if stepped is None else stepped
    indices, latent = draw_inputs(count, seed)
    twin_indices, twin_latent = twin_inputs(indices, latent, count - stepped, stepped, seed)
    path = GENERATORS[variant]
    key = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    both = kept(CACHE / f"{key}-{seed}-{count}-{stepped}.npy", lambda: generate(
        session(path), np.concatenate([indices, twin_indices]), np.concatenate([latent, twin_latent])))
    return Pictures(indices, latent, both[:count], twin_indices, twin_latent, both[count:], count - stepped)


# --- what generators get wrong --------------------------------------------------------------

def worn_model(path, random):
    """The model's bytes with noise on every weight, as a damaged or badly converted file would have."""
    model, share = onnx.load(path), random.uniform(0.12, 0.35)
    for held in model.graph.initializer:
        value = numpy_helper.to_array(held)
        if value.dtype == np.float32 and value.ndim > 1:
            value = value + random.normal(0, share * value.std(), value.shape).astype(np.float32)
            held.CopyFrom(numpy_helper.from_array(value, held.name))
    return model.SerializeToString()


def worn(variant, count, seed):
    """Pictures of models with noisy weights that differ visibly from the sound model's."""
    random, sound, out = np.random.default_rng(seed), session(GENERATORS[variant]), []
    while sum(map(len, out)) < count:
        indices, latent = draw_inputs(100, int(random.integers(0, 2 ** 31)))
        made = generate(session(worn_model(GENERATORS[variant], random)), indices, latent)
        out.append(made[visibly_different(made, generate(sound, indices, latent))])
    return np.concatenate(out)[:count]


def confused(variant, count, seed):
    """Pictures of a generator that is asked for two kinds at once, and often for other pairs of values too."""
    random, model, out = np.random.default_rng(seed), session(GENERATORS[variant]), []
    while sum(map(len, out)) < count:
        indices, latent = draw_inputs(100, int(random.integers(0, 2 ** 31)))
        second = indices.copy()
        second[:, 0] = (indices[:, 0] + random.integers(1, CARDINALITIES[0], 100)) % CARDINALITIES[0]
        for trait in range(1, len(CARDINALITIES)):
            change = random.random(100) < 0.3
            second[change, trait] = random.integers(0, CARDINALITIES[trait], change.sum())
        share = random.uniform(0.35, 0.65, (100, 1)).astype(np.float32)
        asked = one_hot(indices) * (1 - share) + one_hot(second) * share
        made = model.run(None, {"traits": asked, "latent": latent})[0]
        out.append(made[visibly_different(made, generate(model, indices, latent))
                        & visibly_different(made, generate(model, second, latent))])
    return np.concatenate(out)[:count]


def visibly_different(made, wanted):
    """In so many pixels as a blend has to: a generator's sound pictures differ a little from each other's, too."""
    step = np.abs(made.astype(np.int16) - wanted).max(3)
    return (step > corruption.VISIBLE_STEP).sum((1, 2)) >= corruption.BROAD_PIXELS


def faulty_pictures(count, seed):
    """By way of being faulty: pictures from the float variants in equal parts."""
    variants = ("teacher", "small", "smaller")
    each = -(-count // len(variants))
    out = {}
    for number, make in enumerate((worn, confused)):
        parts = []
        for position, variant in enumerate(variants):
            key = hashlib.sha256(GENERATORS[variant].read_bytes()).hexdigest()[:16]
            at = seed + 10 * number + position
            parts.append(kept(CACHE / f"{key}-{make.__name__}-{at}-{each}.npy", lambda: make(variant, each, at)))
        out[f"generator_{make.__name__}"] = np.concatenate(parts)[:count]
    return out


# --- batches --------------------------------------------------------------------------------

class Batch:
    """How many pictures of each sort a batch holds, in this order; the first `pairs` of the sound ones
    of each source have a near-copy at the end of the batch."""

    def __init__(self, rendered, rendered_pairs, generated, generated_pairs, damaged, hard):
        self.rendered, self.rendered_pairs = rendered, rendered_pairs
        self.generated, self.generated_pairs, self.damaged = generated, generated_pairs, damaged
        self.hard = hard           # how many times as often as others a kind is drawn, by name
        self.sound = rendered + generated
        self.copies = self.sound + damaged
        self.size = self.copies + rendered_pairs + generated_pairs
        # Where the source of each near-copy lies.
        each, pairs = generated // len(GENERATED), generated_pairs // len(GENERATED)
        self.sources = list(range(rendered_pairs)) + [
            rendered + group * each + i for group in range(len(GENERATED)) for i in range(pairs)]


BASE = Batch(12, 8, 0, 0, 12, HARD)
FINAL = Batch(8, 6, 8, 4, 14, HARDEST)


def alike(indices, count):
    """For each of the first `count` items the other one that shares the most traits: the hardest to tell apart."""
    plain, out = one_hot(indices), np.empty(count, np.int64)
    for start in range(0, count, 500):
        shared = plain[start:start + 500] @ plain.T
        shared[np.arange(len(shared)), start + np.arange(len(shared))] = -1
        out[start:start + 500] = shared.argmax(1)[:count - start]
    return out


def evidence_targets(shown):
    """1 where a cell shows evidence, 0 where it shows none, -1 where too little to tell; 16 x 16 and 8 x 8 cells."""
    out = []
    for size, enough in ((4, 2), (8, 3)):
        count = corruption.cells(shown, size) * size * size
        out.append(np.where(count >= enough - 0.5, 1, np.where(count < 0.5, 0, -1)).astype(np.int8))
    return out


def training_pictures(form):
    """The renderer's pictures, each generator's, and faulty ones; the last two empty without generators."""
    real = renderer_pictures(*SETS["training"], TWINS, STEPS)
    if not form.generated:
        return real, [], []
    made = [generator_pictures(name, count, SEED + 50 + i) for i, (name, count) in enumerate(GENERATED.items())]
    return real, made, [np.concatenate(list(faulty_pictures(FAULTY, SEED + 70).values()))]


def batches(form, seed):
    """Endless batches: pixels, trait indices and latents of sound pictures and near-copies, and evidence targets of the damaged."""
    random = np.random.default_rng(seed)
    real, made, faulty = training_pictures(form)
    near = alike(real.indices, len(real.twins))
    kinds = [kind for name, kind in SEEN.items() for _ in range(form.hard.get(name, 1))]
    generators_absent = not made

    def sound(pictures, count, pairs, neighbours):
        pick = random.integers(0, len(pictures.pixels), count)
        pick[:pairs] = random.integers(0, len(pictures.twins), pairs)
        if neighbours is not None:
            pick[pairs:] = neighbours[pick[:count - pairs]]
        return pick

    def stand_in(image):
        """Soft now and then, as generators' pictures are, as long as there are none of them."""
        if generators_absent and random.random() < SOFTENED:
            return np.floor(near_copies.softened(image, random) + 0.5).astype(np.uint8)
        return image

    def damaged(picks):
        """A damaged picture; half are of pictures that this batch shows sound, so that the damage alone tells them apart."""
        if faulty and random.random() < 0.12:
            return faulty[0][random.integers(0, len(faulty[0]))], np.ones((64, 64), bool)
        while True:
            kind = kinds[random.integers(0, len(kinds))]
            group = random.integers(1, len(groups)) if made and random.random() < 0.6 else 0
            pictures = groups[group][0]
            which = random.choice(picks[group]) if random.random() < 0.5 else random.integers(0, len(pictures.pixels))
            if kind.__name__ == "conflict" and which >= pictures.aligned:
                which = random.integers(0, pictures.aligned)
            shown = corruption.damage_one(kind, pictures.pixels[which],
                                          lambda: pictures.pixels[random.integers(0, len(pictures.pixels))],
                                          pictures.twins[which] if which < pictures.aligned else None, random)
            if shown is not None:
                return stand_in(shown[0]), shown[1]

    groups = [(real, form.rendered, form.rendered_pairs, near)]
    groups += [(part, form.generated // len(made), form.generated_pairs // len(made), None) for part in made]
    while True:
        pixels, indices, latents, twins, twin_indices, twin_latents, picks = [], [], [], [], [], [], []
        for pictures, count, pairs, neighbours in groups:
            pick = sound(pictures, count, pairs, neighbours)
            picks.append(pick)
            pixels.append(np.stack([stand_in(image) for image in pictures.pixels[pick]]))
            indices.append(pictures.indices[pick])
            latents.append(pictures.latent[pick])
            for which in pick[:pairs]:
                twin = random.random() < 0.75
                twins.append(near_copies.retouched((pictures.twins if twin else pictures.pixels)[which], random)
                             if random.random() < 0.7 or not twin else pictures.twins[which])
                twin_indices.append((pictures.twin_indices if twin else pictures.indices)[which])
                twin_latents.append((pictures.twin_latent if twin else pictures.latent)[which])
        broken, shown = zip(*(damaged(picks) for _ in range(form.damaged)))
        yield (np.concatenate([*pixels, np.stack(broken), np.stack(twins)]), np.concatenate([*indices, np.stack(twin_indices)]),
               np.concatenate([*latents, np.stack(twin_latents)]), *evidence_targets(np.stack(shown)))


def _produce(queue, form, seed):
    for batch in batches(form, seed):
        while multiprocessing.parent_process().is_alive():
            try:
                queue.put(batch, timeout=10)
                break
            except Full:
                continue
        else:
            queue.cancel_join_thread()     # nobody will read what is left, so its sender would never end
            return


class Feed:
    """Batches from a process of their own; `close` ends it."""

    def __init__(self, form, seed):
        training_pictures(form)     # into the cache, from where the process has them
        tool = multiprocessing.get_context("spawn")
        self.queue = tool.Queue(WAITING)
        self.process = tool.Process(target=_produce, args=(self.queue, form, seed), daemon=True)
        self.process.start()

    def __next__(self):
        while True:
            try:
                return self.queue.get(timeout=10)
            except Empty:
                if not self.process.is_alive():
                    raise RuntimeError("the process that makes the batches has ended; its error is above") from None

    def close(self):
        self.process.kill()
        self.process.join()


def main():
    """Renders the twins that training and evaluation use."""
    training_pictures(BASE)
    count, seed, keep = SETS["check"]
    renderer_pictures(count, seed, keep, count // 2)


if __name__ == "__main__":
    main()

"""Measures the exported auditor; the figures go to the cache folder for report.py."""

import numpy as np

import evaluate_embedding
from auditor_data import faulty_pictures, generator_pictures, renderer_pictures
from corruption import BROAD_PIXELS, SEAM_PIXELS, VISIBLE_PIXELS, VISIBLE_STEP, damage
from corruption_kinds import SEEN, UNSEEN
from data import named_set
from runtime import AUDITOR, BATCH, GENERATORS, ask, cost_us, generate, keep_figures, read_back, session, test_pictures
from training import SEED
from vocabulary import NAMES

DAMAGED = 80               # pictures of each source that each kind damages
DAMAGE_SEED = 14           # of the inputs of the pictures that are damaged
FALSE_ALARMS = 0.008       # of all sound pictures of the limits' set; below 0.01 for chance
WORST_ALARMS = 0.02        # of the worst source there
OTHER_ALARMS = (0.001, 0.002, 0.003, 0.005, 0.008, 0.01)     # shares of false alarms that the report has figures for


def calibration(probability, truth):
    """Reliability table and expected calibration error in ten bins."""
    rows, error = [], 0.0
    which = np.minimum((probability * 10).astype(int), 9)
    for bin_ in range(10):
        inside = which == bin_
        if inside.any():
            said, seen = float(probability[inside].mean()), float(truth[inside].mean())
            rows.append((bin_ / 10, int(inside.sum()), said, seen))
            error += inside.mean() * abs(said - seen)
    return rows, float(error)


def thresholds(auditor):
    """Corruption limits from a set of their own: at most 0.8 % of all sound pictures reach the lower one, 2 % of a source's."""
    indices, latent, rendered = named_set("limits")
    sources = [np.asarray(rendered)] + [generate(session(path), indices, latent) for path in GENERATORS.values()]
    values = np.stack([ask(auditor, sound)[1][:, 0] for sound in sources])
    accept = max(float(np.quantile(values, 1 - FALSE_ALARMS)), float(np.quantile(values, 1 - WORST_ALARMS, axis=1).max()), 0.02)
    reject = max(float(np.quantile(values, 0.999)), 0.9, accept)
    return int(np.ceil(accept * 1e6)), int(np.ceil(reject * 1e6)), {share: float(np.quantile(values, 1 - share)) for share in OTHER_ALARMS}


def damaged_pictures():
    """By (group, kind): pictures of every source, damaged, that no training saw."""
    count = 5 * DAMAGED
    sources = [renderer_pictures(count, DAMAGE_SEED)]
    sources += [generator_pictures(name, count, DAMAGE_SEED, 0) for name in GENERATORS]
    out = {}
    for group, kinds in (("trained", SEEN), ("never trained", UNSEEN)):
        for number, (name, kind) in enumerate(kinds.items()):
            part = slice(number % 5 * DAMAGED, (number % 5 + 1) * DAMAGED)
            out[group, name] = np.concatenate([
                damage(s.pixels[part], {name: kind}, SEED + 400 + number, s.twins[part])[0] for s in sources])
    for name, pixels in faulty_pictures(5 * DAMAGED, SEED + 450).items():
        out["trained", name] = pixels
    return out


def measured(auditor):
    """What the manifest says of the auditor, and the report's lines."""
    indices, _, pictures = test_pictures()
    accept, reject, others = thresholds(auditor)
    right, sound = {}, {}
    for name, pixels in pictures.items():
        logits, corruption, _ = ask(auditor, pixels)
        right[name], sound[name] = read_back(logits) == indices, corruption[:, 0]
    broken = {key: ask(auditor, pixels)[1][:, 0] for key, pixels in damaged_pictures().items()}
    all_sound = np.concatenate(list(sound.values()))
    all_broken = np.concatenate([values for (group, _), values in broken.items() if group == "trained"])
    table, ece = calibration(np.concatenate([all_sound, all_broken]), np.repeat([0.0, 1.0], [len(all_sound), len(all_broken)]))
    embedding, embedding_lines = evaluate_embedding.measure(auditor)
    held = {"accept_below_ppm": accept, "reject_above_ppm": reject, "cost_us": cost_us(auditor, {"pixels": pictures["renderer"][:BATCH]}),
            "quality": float(right["renderer"].mean()), **embedding}
    return held, section(right, sound, broken, table, ece, held, others) + embedding_lines


def main():
    keep_figures("auditor", *measured(session(AUDITOR)))


def section(right, sound, broken, table, ece, held, others):
    """The auditor's part of the report."""
    accept, reject = held["accept_below_ppm"], held["reject_above_ppm"]
    lines = ["## Auditor", "", f"{AUDITOR.stat().st_size} bytes, {held['cost_us']} us an image at batch 8.",
             "It learnt traits from the renderer's pictures only and never guided a generator."]
    lines += ["", "### Trait read-back by trait", "", "| trait | " + " | ".join(right) + " |", "| --- |" + " --- |" * len(right)]
    for i, trait in enumerate(NAMES):
        lines.append(f"| {trait} | " + " | ".join(f"{r[:, i].mean():.4f}" for r in right.values()) + " |")
    lines.append("| **mean** | " + " | ".join(f"**{r.mean():.4f}**" for r in right.values()) + " |")
    lines.append("| all eight right | " + " | ".join(f"{r.all(1).mean():.4f}" for r in right.values()) + " |")
    lines += ["", "### Corruption", "",
              f"A picture below {accept} ppm is accepted, at or above {reject} ppm rejected, between them it goes to review. "
              "The limits come from other sound pictures than those counted here.", "",
              "| sound pictures | not accepted (false alarms) | rejected |", "| --- | --- | --- |"]
    for name, values in sound.items():
        lines.append(f"| {name} | {(values * 1e6 >= accept).mean():.4f} | {(values * 1e6 >= reject).mean():.4f} |")
    lines.append(f"| **all** | **{np.mean([(v * 1e6 >= accept).mean() for v in sound.values()]):.4f}** | |")
    lines += ["", "Damage is done to pictures of the renderer and of every variant in equal parts. What hardly shows is no damage: "
              f"at least {VISIBLE_PIXELS} pixels (4 %) differ by more than {VISIBLE_STEP} of 255 ({BROAD_PIXELS}, 20 %, for blends and faulty "
              f"generators), a join shows in at least {SEAM_PIXELS} pixels along its seam, and both parts of a conflict show what differs; "
              "else it is drawn again.", "",
              "| kind of damage | trained on | caught (not accepted) | rejected | pictures |", "| --- | --- | --- | --- | --- |"]
    caught = {key: (values * 1e6 >= accept).mean() for key, values in broken.items()}
    for (group, name), values in broken.items():
        lines.append(f"| {name} | {'yes' if group == 'trained' else 'no'} | {caught[group, name]:.4f} "
                     f"| {(values * 1e6 >= reject).mean():.4f} | {len(values)} |")
    for group in ("trained", "never trained"):
        lines.append(f"| **mean, {group}** | | **{np.mean([v for (g, _), v in caught.items() if g == group]):.4f}** | | |")
    lines += ["", "At other limits, each the one that this share of the limits' sound pictures reaches:", "",
              "| chosen for | limit, ppm | false alarms | caught, trained | caught, never trained |", "| --- | --- | --- | --- | --- |"]
    for share, limit in others.items():
        means = [np.mean([(v >= limit).mean() for (g, _), v in broken.items() if g == group]) for group in ("trained", "never trained")]
        alarms = np.mean([(v >= limit).mean() for v in sound.values()])
        lines.append(f"| {share:.1%} | {limit * 1e6:.0f} | {alarms:.4f} | {means[0]:.4f} | {means[1]:.4f} |")
    lines += ["", "### Calibration of the corruption probability", "", f"Expected calibration error over trained kinds: {ece:.4f}.", "",
              "| bin from | pictures | mean probability | share damaged |", "| --- | --- | --- | --- |"]
    lines += [f"| {low:.1f} | {count} | {said:.3f} | {seen:.3f} |" for low, count, said, seen in table]
    return lines


if __name__ == "__main__":
    main()

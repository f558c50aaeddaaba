"""Measures the exported generators and writes golden vectors and sheets; the figures go to the cache folder for report.py."""

import hashlib
import json

import numpy as np

import int8
from data import SETS, draw_inputs, named_set, one_hot
from graph import MODELS
from renderer import render
from runtime import (AUDITOR, BATCH, GENERATORS, VARIANTS, ask, costs_us, generate, keep_figures, read_back,
                     session, test_pictures)
from sheet import save_png, sheet
from similarity import dissimilarity, psnr
from training import SEED
from vocabulary import CARDINALITIES, EXCLUSIONS, LATENT_LENGTH, NAMES, TRAITS

WALKS, WALK_STEPS = 16, 48
MEAN_TOLERANCE = 0.25
# Accepted mean difference of two backends in steps of 255. ONNX Runtime and the pure-Rust backend add in different
# orders, which moved the mean of a picture by 0.0003 at most (`karat-edge pixels` on both); the rest is margin.
BACKEND_TOLERANCE = 0.02


def allowed(indices):
    """Only trait combinations that no exclusion forbids."""
    where = {name: (position, values) for position, (name, values, _) in enumerate(TRAITS)}
    keep = np.ones(len(indices), bool)
    for a, va, b, vb in EXCLUSIONS:
        keep &= ~((indices[:, where[a][0]] == where[a][1].index(va)) & (indices[:, where[b][0]] == where[b][1].index(vb)))
    return keep


def golden(models, auditor):
    """Eight fixed inputs; latents are multiples of 1/64 so that JSON holds them without error."""
    indices, _ = draw_inputs(64, SEED + 20)
    indices = indices[allowed(indices)][:8]
    latent = (np.random.default_rng(SEED + 21).integers(-64, 65, (8, LATENT_LENGTH)) / 64.0).astype(np.float32)
    made = {name: generate(model, indices, latent) for name, model in models.items()}
    seen = {name: read_back(ask(auditor, pixels)[0]) for name, pixels in made.items()}
    vectors = [{
        "traits": [int(v) for v in indices[i]],
        "latent": [float(v) for v in latent[i]],
        "exact_sha256": hashlib.sha256(made["exact"][i].tobytes()).hexdigest(),
        "means": {name: round(float(made[name][i].mean()), 4) for name in VARIANTS if name != "exact"},
        "mean_tolerance": MEAN_TOLERANCE,
        "auditor_traits": {name: [int(v) for v in seen[name][i]] for name in VARIANTS},
    } for i in range(8)]
    text = json.dumps({"format": 2, "traits": NAMES, "vectors": vectors}, indent=1)
    (MODELS / "relics" / "golden.json").write_text(text + "\n")


def sheets(models):
    indices, latent = draw_inputs(400, SEED + 30)
    keep = allowed(indices)
    indices, latent = indices[keep][:96], latent[keep][:96]
    indices[:, 0] = np.arange(96) % CARDINALITIES[0]
    indices[~allowed(indices), 1] = 0
    made = {name: generate(model, indices, latent) for name, model in models.items()}
    made["renderer"] = np.stack([render(i, z) for i, z in zip(indices, latent)])
    save_png(sheet(list(made["teacher"]), 12), MODELS / "contact-sheet.png", 600_000)
    save_png(sheet(list(made["small"]), 12), MODELS / "contact-sheet-small.png", 600_000)
    rows = [row for start in range(0, 24, 12) for kind in ("renderer", *VARIANTS) for row in made[kind][start:start + 12]]
    save_png(sheet(rows, 12), MODELS / "side-by-side.png", 600_000)
    walk = [picture for row in range(6) for picture in straight(models["small"], indices[row], latent[row], latent[row + 6], 12)]
    save_png(sheet(walk, 12), MODELS / "latent-walk.png", 600_000)


def straight(model, traits, start, end, steps):
    """The pictures of a straight walk between two latents."""
    share = np.linspace(0.0, 1.0, steps, dtype=np.float32)[:, None]
    return generate(model, np.repeat(traits[None], steps, 0), start + (end - start) * share)


def smoothness(model):
    """Mean and largest step (mean absolute difference of neighbours, in steps of 255) and mean distance of the ends."""
    indices, latent = draw_inputs(2 * WALKS, SEED + 31)
    steps, ends = [], []
    for i in range(WALKS):
        path = straight(model, indices[i], latent[i], latent[WALKS + i], WALK_STEPS).astype(np.float32)
        steps.append(np.abs(path[1:] - path[:-1]).mean((1, 2, 3)))
        ends.append(np.abs(path[-1] - path[0]).mean())
    # A walk's own largest step against its own mean step: 1 would be perfectly even.
    uneven = max(float(s.max() / s.mean()) for s in steps)
    return float(np.mean(steps)), float(np.max(steps)), uneven, float(np.mean(ends))


def measured(models, auditor):
    """What the manifest says of every variant, and the report's lines."""
    indices, latent, pictures = test_pictures()
    feed = {"traits": one_hot(indices[:BATCH]), "latent": latent[:BATCH]}
    rare_indices, rare_latent, rare = named_set("held out")
    rare = {"renderer": np.asarray(rare)} | {name: generate(model, rare_indices, rare_latent) for name, model in models.items()}
    right = {name: read_back(ask(auditor, pixels)[0]) == indices for name, pixels in pictures.items()}
    right_rare = {name: read_back(ask(auditor, pixels)[0]) == rare_indices for name, pixels in rare.items()}
    costs = costs_us({name: (model, feed) for name, model in models.items()})
    figures = {}
    for name in VARIANTS:
        figures[name] = {
            "bytes": GENERATORS[name].stat().st_size,
            "cost_us": costs[name],
            "quality": float(right[name].mean()),
            "whole": float(right[name].all(1).mean()),
            "psnr": psnr(pictures[name], pictures["renderer"]),
            "to_renderer": dissimilarity(pictures[name], pictures["renderer"]),
            "distance": 0.0 if name == "teacher" else dissimilarity(pictures[name], pictures["teacher"]),
            "rare_quality": float(right_rare[name].mean()),
            "rare_psnr": psnr(rare[name], rare["renderer"]),
            "backend_tolerance": 0.0 if name == "exact" else BACKEND_TOLERANCE,
            "steps": smoothness(models[name]),
        }
    return figures, section(figures, right, right_rare) + int8_section(int8.measure(GENERATORS["small"], indices, latent, feed))


def main():
    models, auditor = {name: session(path) for name, path in GENERATORS.items()}, session(AUDITOR)
    golden(models, auditor)
    sheets(models)
    keep_figures("generator", *measured(models, auditor))


def section(figures, right, right_rare):
    """The generators' part of the report."""
    lines = ["## Generators", "",
             f"Over {SETS['test'][0]} inputs that no training saw, drawn uniformly over traits and latent. Read-back is what the auditor reads; "
             "the auditor guided no generator. The distance is 1 - MS-SSIM (colour channels at 64, 32 and 16 pixels): "
             "0 for equal pictures.", "",
             "| variant | file bytes | cost, us an image (batch 8) | share of the teacher's cost | trait read-back | all eight right "
             "| distance to the teacher | distance to the renderer | PSNR to the renderer, dB |",
             "| --- |" + " --- |" * 8]
    for name, f in figures.items():
        lines.append(f"| {name} | {f['bytes']} | {f['cost_us']} | {f['cost_us'] / figures['teacher']['cost_us']:.3f} | {f['quality']:.4f} "
                     f"| {f['whole']:.4f} | {f['distance']:.4f} | {f['to_renderer']:.4f} | {f['psnr']:.1f} |")
    lines += ["", f"All ONNX files of the generators: {sum(f['bytes'] for f in figures.values())} bytes.",
              "", "### Trait read-back by trait", "", "| trait | " + " | ".join(right) + " |", "| --- |" + " --- |" * len(right)]
    for i, trait in enumerate(NAMES):
        lines.append(f"| {trait} | " + " | ".join(f"{r[:, i].mean():.4f}" for r in right.values()) + " |")
    lines += ["", "### Combinations never trained on", "",
              f"24 triples of kind, ornament and gem and 4 pairs of material and palette are left out of all training (`data.py`). "
              f"Over {SETS['held out'][0]} inputs that each hold one of them:", "",
              "| source | trait read-back | all eight right | PSNR to the renderer, dB |", "| --- | --- | --- | --- |"]
    for name, r in right_rare.items():
        level = f"{figures[name]['rare_psnr']:.1f}" if name in figures else ""
        lines.append(f"| {name} | {r.mean():.4f} | {r.all(1).mean():.4f} | {level} |")
    lines += ["", "### Moving through the latent space", "",
              f"{WALKS} straight walks of {WALK_STEPS} pictures between two random latents; a step is the mean absolute difference of "
              "neighbours in steps of 255.", "",
              "| variant | mean step | largest step | most uneven walk: largest by mean step | mean distance of the ends |",
              "| --- |" + " --- |" * 4]
    for name, f in figures.items():
        mean, largest, uneven, ends = f["steps"]
        lines.append(f"| {name} | {mean:.3f} | {largest:.3f} | {uneven:.2f} | {ends:.2f} |")
    lines += ["", "### Pictures", "", "- `contact-sheet.png`: the teacher; `contact-sheet-small.png`: small, same inputs.",
              "- `side-by-side.png`: renderer, teacher, small, smaller, exact, in rows of five.",
              "- `latent-walk.png`: six straight walks of the small variant.", ""]
    return lines


def int8_section(f):
    return ["### INT8", "",
            f"The small variant, statically quantised by ONNX Runtime (`int8.py`): {f['int8_us']} us an image against {f['float_us']} us "
            f"in float, taking turns; {f['int8_bytes']} bytes; distance to the float file's pictures {f['distance']:.4f}. "
            "It stays off the ladder: the pure-Rust backend computes such graphs slower than floats and to other bytes, and every "
            "rung serves on both backends.", ""]


if __name__ == "__main__":
    main()

"""Writes a model folder's manifest.toml."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vocabulary import EXCLUSIONS, IMAGE_SIZE, LATENT_LENGTH, TRAITS

VERSIONS = {"relics": "2.0.0", "relics-auditor": "2.1.0"}      # the next one when files change


@dataclass
class Variant:
    """One ONNX file.

    `cost_us` is an image's at batch 8 on one thread, `quality` the share of traits that the auditor reads
    back right, `distance` the perceptual distance to the teacher, `backend_tolerance` the mean difference
    between two backends (in steps of 255) that re-execution accepts.
    """

    name: str
    path: Path
    exact: bool
    ladder: bool
    cost_us: int
    quality: float
    distance: float
    backend_tolerance: float
    precision: str = "float32"


def quoted(values):
    return "[" + ", ".join(f'"{v}"' for v in values) + "]"


def numbers(values):
    return "[" + ", ".join(f"{v:.6f}" for v in values) + "]"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(folder, name, role, seed, default_variant, variants, auditor=None, reference=None, drift_references=None):
    """`auditor`: whole numbers by key; `reference`: (mean, deviation) of the embedding over sound assets;
    `drift_references`: mean and deviation over sound assets of one generator's variant, by its name."""
    lines = ["format = 2", f'name = "{name}"', f'version = "{VERSIONS[name]}"', f'role = "{role}"', 'licence = "Apache-2.0"',
             f"image_width = {IMAGE_SIZE}", f"image_height = {IMAGE_SIZE}", f"latent_length = {LATENT_LENGTH}",
             f"seed = {seed}", f'default_variant = "{default_variant}"', ""]
    if auditor:
        lines += ["[auditor]", "# Corruption in parts per million: below the first accept, at or above the second reject."]
        lines += [f"{key} = {value}" for key, value in auditor.items()] + [""]
    if reference:
        lines += ["[reference]", "# The embedding over sound assets drawn by the traits' weights.",
                  f"mean = {numbers(reference[0])}", f"deviation = {numbers(reference[1])}", ""]
    for variant, (mean, deviation) in (drift_references or {}).items():
        lines += ["[[drift_references]]", "# Over sound assets of this variant alone.", f'variant = "{variant}"',
                  f"mean = {numbers(mean)}", f"deviation = {numbers(deviation)}", ""]
    for trait, values, weights in TRAITS:
        lines += ["[[traits]]", f'name = "{trait}"', f"values = {quoted(values)}",
                  f"weights = [{', '.join(map(str, weights))}]", ""]
    for a, va, b, vb in EXCLUSIONS:
        lines += ["[[exclusions]]", f'trait = "{a}"', f'value = "{va}"', f'other_trait = "{b}"', f'other_value = "{vb}"', ""]
    for v in variants:
        lines += ["[[variants]]", f'name = "{v.name}"', f'file = "{v.path.name}"',
                  f'sha256 = "{digest(v.path)}"', f"bytes = {v.path.stat().st_size}",
                  f"exact = {str(v.exact).lower()}", f"ladder = {str(v.ladder).lower()}", f'precision = "{v.precision}"',
                  f"cost_us = {v.cost_us}", f"quality = {v.quality:.4f}", f"distance = {v.distance:.4f}",
                  f"backend_tolerance = {v.backend_tolerance:.3f}", ""]
    (folder / "manifest.toml").write_text("\n".join(lines[:-1]) + "\n")

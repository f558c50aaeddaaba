"""Writes a model folder's manifest.toml."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vocabulary import EXCLUSIONS, IMAGE_SIZE, LATENT_LENGTH, TRAITS

VERSION = "2.0.0"


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


def write(folder, name, role, seed, default_variant, variants, auditor=None, reference=None):
    """`auditor`: whole numbers by key; `reference`: (mean, deviation) of the embedding over sound assets."""
    lines = ["format = 2", f'name = "{name}"', f'version = "{VERSION}"', f'role = "{role}"', 'licence = "Apache-2.0"',
             f"image_width = {IMAGE_SIZE}", f"image_height = {IMAGE_SIZE}", f"latent_length = {LATENT_LENGTH}",
             f"seed = {seed}", f'default_variant = "{default_variant}"', ""]
    if auditor:
        lines += ["[auditor]", "# Corruption in parts per million: below the first accept, at or above the second reject."]
        lines += [f"{key} = {value}" for key, value in auditor.items()] + [""]
    if reference:
        lines += ["[reference]", "# The embedding over sound assets drawn by the traits' weights.",
                  f"mean = {numbers(reference[0])}", f"deviation = {numbers(reference[1])}", ""]
    for trait, values, weights in TRAITS:
        lines += ["[[traits]]", f'name = "{trait}"', f"values = {quoted(values)}",
                  f"weights = [{', '.join(map(str, weights))}]", ""]
    for a, va, b, vb in EXCLUSIONS:
        lines += ["[[exclusions]]", f'trait = "{a}"', f'value = "{va}"', f'other_trait = "{b}"', f'other_value = "{vb}"', ""]
    for v in variants:
        data = v.path.read_bytes()
        lines += ["[[variants]]", f'name = "{v.name}"', f'file = "{v.path.name}"',
                  f'sha256 = "{hashlib.sha256(data).hexdigest()}"', f"bytes = {len(data)}",
                  f"exact = {str(v.exact).lower()}", f"ladder = {str(v.ladder).lower()}", f'precision = "{v.precision}"',
                  f"cost_us = {v.cost_us}", f"quality = {v.quality:.4f}", f"distance = {v.distance:.4f}",
                  f"backend_tolerance = {v.backend_tolerance:.3f}", ""]
    (folder / "manifest.toml").write_text("\n".join(lines[:-1]) + "\n")

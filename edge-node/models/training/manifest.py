"""Writes a model folder's manifest.toml."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vocabulary import EXCLUSIONS, IMAGE_SIZE, LATENT_LENGTH, TRAITS

VERSION = "1.0.0"


@dataclass
class Variant:
    """One ONNX file: `cost_us` an image at batch 8 on one thread, `quality` as trait read-back in 0..1."""

    name: str
    path: Path
    exact: bool
    cost_us: int
    quality: float


def quoted(values):
    return "[" + ", ".join(f'"{v}"' for v in values) + "]"


def write(folder, name, role, seed, variants, limits=None):
    """`limits`: the auditor's (accept_below_ppm, reject_above_ppm)."""
    lines = ["format = 1", f'name = "{name}"', f'version = "{VERSION}"', f'role = "{role}"', 'licence = "Apache-2.0"',
             f"image_width = {IMAGE_SIZE}", f"image_height = {IMAGE_SIZE}", f"latent_length = {LATENT_LENGTH}",
             f"seed = {seed}", f'default_variant = "{variants[0].name}"', ""]
    if limits:
        lines += ["[auditor]", "# Corruption in parts per million: below the first accept, at or above the second reject.",
                  f"accept_below_ppm = {limits[0]}", f"reject_above_ppm = {limits[1]}", ""]
    for trait, values, weights in TRAITS:
        lines += ["[[traits]]", f'name = "{trait}"', f"values = {quoted(values)}",
                  f"weights = [{', '.join(map(str, weights))}]", ""]
    for a, va, b, vb in EXCLUSIONS:
        lines += ["[[exclusions]]", f'trait = "{a}"', f'value = "{va}"', f'other_trait = "{b}"', f'other_value = "{vb}"', ""]
    for v in variants:
        data = v.path.read_bytes()
        lines += ["[[variants]]", f'name = "{v.name}"', f'file = "{v.path.name}"',
                  f'sha256 = "{hashlib.sha256(data).hexdigest()}"', f"exact = {str(v.exact).lower()}",
                  f"cost_us = {v.cost_us}", f"quality = {v.quality:.4f}", f"bytes = {len(data)}", ""]
    (folder / "manifest.toml").write_text("\n".join(lines[:-1]) + "\n")

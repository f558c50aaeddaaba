"""Runs the exported models with ONNX Runtime on one thread."""

import json
import time

import numpy as np
import onnxruntime

from data import CACHE, named_set, one_hot
from graph import MODELS
from vocabulary import OFFSETS

VARIANTS = ("teacher", "small", "smaller", "exact")
GENERATORS = {name: MODELS / "relics" / f"generator-{name}.onnx" for name in VARIANTS}
AUDITOR = MODELS / "relics-auditor" / "auditor.onnx"
BATCH = 8


def session(model):
    """A session of an ONNX file, given as its path or its bytes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"])


def generate(model, indices, latent, batch=50):
    traits = one_hot(indices)
    return np.concatenate([model.run(None, {"traits": traits[i:i + batch], "latent": latent[i:i + batch]})[0]
                           for i in range(0, len(traits), batch)])


def ask(model, pixels, batch=50):
    parts = [model.run(None, {"pixels": pixels[i:i + batch]}) for i in range(0, len(pixels), batch)]
    return [np.concatenate(column) for column in zip(*parts)]


def read_back(logits):
    return np.stack([logits[:, a:b].argmax(1) for a, b in zip(OFFSETS, OFFSETS[1:])], 1)


def costs_us(calls):
    """Microseconds of processor time an image at batch 8 of every (model, feed) by name.

    The calls take turns, so that what else the machine does weighs on all alike; of 150 turns the lower
    quartile counts.
    """
    taken = {name: [] for name in calls}
    for turn in range(160):
        for name, (model, feed) in calls.items():
            begun = time.process_time()
            model.run(None, feed)
            if turn >= 10:
                taken[name].append(time.process_time() - begun)
    return {name: int(round(float(np.quantile(times, 0.25)) * 1e6 / BATCH)) for name, times in taken.items()}


def cost_us(model, feed):
    return costs_us({"model": (model, feed)})["model"]


def test_pictures():
    """Trait indices, latents and pixels by source ("renderer" and every variant) that no training saw."""
    indices, latent, rendered = named_set("test")
    pictures = {"renderer": np.asarray(rendered)}
    for name, path in GENERATORS.items():
        pictures[name] = generate(session(path), indices, latent)
    return indices, latent, pictures


def keep_figures(part, manifest, lines):
    """Leaves one part's figures for report.py: what its manifest says and its lines of the report."""
    (CACHE / f"figures-{part}.json").write_text(json.dumps({"manifest": manifest, "lines": lines}, indent=1))

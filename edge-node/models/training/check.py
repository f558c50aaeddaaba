"""Checks the committed models without training anything: digests, golden vectors, exactness.

    python check.py        exits 0 and prints one line a check, or stops at the first that fails
"""

import hashlib
import json
import tomllib

import numpy as np
import onnx
from onnx import numpy_helper

from data import draw_inputs, one_hot
from evaluate import AUDITOR, EXACT, FULL, ask, generate, read_back, session
from export import MODELS

COMMON_OPERATORS = {"Add", "Cast", "Clip", "Concat", "Conv", "DepthToSpace", "Flatten", "Floor", "Gemm",
                    "GlobalAveragePool", "Mul", "Relu", "Reshape", "Sigmoid", "Transpose"}


def require(truth, message):
    if not truth:
        raise SystemExit(f"failed: {message}")


def check_manifest(folder):
    held = tomllib.loads((MODELS / folder / "manifest.toml").read_text())
    for variant in held["variants"]:
        data = (MODELS / folder / variant["file"]).read_bytes()
        require(hashlib.sha256(data).hexdigest() == variant["sha256"], f"{folder}/{variant['file']}: digest differs")
        require(len(data) == variant["bytes"], f"{folder}/{variant['file']}: size differs")
    print(f"{folder}: digests and sizes of {len(held['variants'])} variants match the manifest")


def check_operators(path):
    used = {node.op_type for node in onnx.load(path).graph.node}
    require(used <= COMMON_OPERATORS, f"{path.name} uses {sorted(used - COMMON_OPERATORS)}")
    print(f"{path.name}: only common operators ({len(used)} of them)")


def check_exact_weights(path):
    """From the file alone: whole weights, powers of two as factors, every partial sum below 2^24."""
    graph = onnx.load(path).graph
    held = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node}

    def reach(name):
        """The largest magnitude that a tensor can have: what the Clip before it allows."""
        node = made_by[name]
        if node.op_type == "Clip":
            return max(abs(float(held[bound])) for bound in node.input[1:3])
        require(node.op_type in ("Reshape", "DepthToSpace"), f"{node.name}: no Clip before an input")
        return reach(node.input[0])

    worst = 0.0
    for node in graph.node:
        if node.op_type in ("Gemm", "Conv"):
            weight, bias = (np.float64(held[name]) for name in node.input[1:3])
            require((weight == np.round(weight)).all() and (bias == np.round(bias)).all(), f"{node.name}: not whole")
            axes = 0 if node.op_type == "Gemm" else (1, 2, 3)
            bound = np.abs(weight).sum(axes) * reach(node.input[0]) + np.abs(bias)
            worst = max(worst, float(bound.max()))
            require(bound.max() < 2 ** 24, f"{node.name}: a partial sum can reach {bound.max():.0f}")
        elif node.op_type == "Mul":
            for name in node.input:
                if name in held:
                    require((np.frexp(held[name])[0] == 0.5).all(), f"{node.name}: a factor is not a power of two")
    print(f"{path.name}: largest possible partial sum is 2^{np.log2(worst):.3f}")


def check_golden(full, exact, auditor):
    vectors = json.loads((MODELS / "relics" / "golden.json").read_text())["vectors"]
    indices = np.array([v["traits"] for v in vectors])
    latent = np.array([v["latent"] for v in vectors], np.float32)
    whole, pixels = generate(exact, indices, latent), generate(full, indices, latent)
    seen = read_back(ask(auditor, whole)[0])
    for i, vector in enumerate(vectors):
        require(hashlib.sha256(whole[i].tobytes()).hexdigest() == vector["exact_sha256"], f"golden vector {i}: exact pixels differ")
        require(abs(float(pixels[i].mean()) - vector["means"]["small"]) <= vector["mean_tolerance"], f"golden vector {i}: mean differs")
        require(seen[i].tolist() == vector["auditor_traits"]["exact"], f"golden vector {i}: traits read differ")
    print(f"golden: {len(vectors)} vectors match")


def check_batches(exact, count=1024):
    indices, latent = draw_inputs(count, 99)
    alone = np.concatenate([generate(exact, indices[i:i + 1], latent[i:i + 1]) for i in range(count)])
    require((alone == generate(exact, indices, latent, 64)).all(), "exact pixels depend on the batch")
    # Values outside the interface's range are clipped to it, so the proof's bound holds for them too.
    wild = np.full((1, latent.shape[1]), 1e6, np.float32)
    one = np.ones_like(wild)
    require((exact.run(None, {"traits": one_hot(indices[:1]), "latent": wild})[0]
             == exact.run(None, {"traits": one_hot(indices[:1]), "latent": one})[0]).all(), "latents are not clipped")
    print(f"exact: {count} pictures are the same at batch 1 and batch 64")


def main():
    for folder in ("relics", "relics-auditor"):
        check_manifest(folder)
    for path in (FULL, EXACT, AUDITOR):
        check_operators(path)
    check_exact_weights(EXACT)
    full, exact, auditor = session(FULL), session(EXACT), session(AUDITOR)
    check_golden(full, exact, auditor)
    check_batches(exact)


if __name__ == "__main__":
    main()

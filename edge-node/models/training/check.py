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
from graph import MODELS
from runtime import AUDITOR, GENERATORS, ask, generate, read_back, session, test_pictures

COMMON_OPERATORS = {"Add", "Cast", "Clip", "Concat", "Conv", "DepthToSpace", "Flatten", "Floor", "Gemm",
                    "GlobalAveragePool", "GlobalMaxPool", "MatMul", "Mul", "Relu", "Reshape", "Sigmoid", "Slice", "Transpose"}
MOST_BYTES = 12_000_000
FIGURE_TOLERANCE = 0.002   # another machine rounds a level here and there


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
        require(node.op_type in ("Reshape", "DepthToSpace", "Concat", "Transpose", "Slice"), f"{node.name}: no Clip before an input")
        return max(reach(name) for name in node.input if name not in held)

    worst = 0.0
    for node in graph.node:
        if node.op_type in ("Gemm", "Conv"):
            weight, bias = (np.float64(held[name]) for name in node.input[1:3])
            require((weight == np.round(weight)).all() and (bias == np.round(bias)).all(), f"{node.name}: not whole")
            axes = 0 if node.op_type == "Gemm" else (1, 2, 3)
            bound = np.abs(weight).sum(axes) * reach(node.input[0]) + np.abs(bias)
            worst = max(worst, float(bound.max()))
            require(bound.max() < 2 ** 24, f"{node.name}: a partial sum can reach {bound.max():.0f}")
        elif node.op_type == "MatMul":
            terms = next(int(held[n.input[1]][2]) for n in graph.node if n.op_type == "Reshape" and n.output[0] == node.input[1])
            bound = terms * reach(node.input[0]) * reach(node.input[1])
            worst = max(worst, bound)
            require(bound < 2 ** 24, f"{node.name}: a partial sum can reach {bound:.0f}")
        elif node.op_type == "Mul":
            for name in node.input:
                if name in held:
                    require((np.frexp(held[name])[0] == 0.5).all(), f"{node.name}: a factor is not a power of two")
    print(f"{path.name}: largest possible partial sum is 2^{np.log2(worst):.3f}")


def check_golden(models, auditor):
    vectors = json.loads((MODELS / "relics" / "golden.json").read_text())["vectors"]
    indices = np.array([v["traits"] for v in vectors])
    latent = np.array([v["latent"] for v in vectors], np.float32)
    for name, model in models.items():
        pixels = generate(model, indices, latent)
        seen = read_back(ask(auditor, pixels)[0])
        for i, vector in enumerate(vectors):
            require(seen[i].tolist() == vector["auditor_traits"][name], f"golden vector {i}: traits read in {name} differ")
            if name == "exact":
                require(hashlib.sha256(pixels[i].tobytes()).hexdigest() == vector["exact_sha256"], f"golden vector {i}: exact pixels differ")
            else:
                apart = abs(float(pixels[i].mean()) - vector["means"][name])
                require(apart <= vector["mean_tolerance"], f"golden vector {i}: mean of {name} differs by {apart:.3f}")
    print(f"golden: {len(vectors)} vectors match")


def check_figures(auditor):
    """Read-back of every generator comes out as the manifest says."""
    stated = {v["name"]: v["quality"] for v in tomllib.loads((MODELS / "relics" / "manifest.toml").read_text())["variants"]}
    indices, _, pictures = test_pictures()
    for name, pixels in pictures.items():
        if name in stated:
            found = float((read_back(ask(auditor, pixels)[0]) == indices).mean())
            require(abs(found - stated[name]) <= FIGURE_TOLERANCE, f"{name}: read-back is {found:.4f}, the manifest says {stated[name]:.4f}")
    print(f"figures: read-back of {len(stated)} variants comes out again")


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
    for path in (*GENERATORS.values(), AUDITOR):
        check_operators(path)
    total = sum(path.stat().st_size for path in (*GENERATORS.values(), AUDITOR))
    require(total <= MOST_BYTES, f"all ONNX files together have {total} bytes, the limit is {MOST_BYTES}")
    check_exact_weights(GENERATORS["exact"])
    models, auditor = {name: session(path) for name, path in GENERATORS.items()}, session(AUDITOR)
    check_golden(models, auditor)
    check_batches(models["exact"])
    check_figures(auditor)


if __name__ == "__main__":
    main()

"""Writes the trained weights as ONNX files, and proves the exact variant exact before it writes it.

The proof: weights, biases and activations are whole numbers held in float32; for every output of
every Gemm and Conv, (sum of |weight|) * (largest input) + |bias| < 2^24. Whatever the order of a
summation, no partial sum can then leave the range in which float32 holds every whole number.
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import models
from train import exact_parts, load
from vocabulary import IMAGE_SIZE, LATENT_LENGTH, WIDTH

MODELS = pathlib.Path(__file__).resolve().parent.parent


class NotExact(Exception):
    """A weight or a sum could leave the range in which float32 arithmetic is exact."""


class Graph:
    """Collects nodes and constants of one ONNX graph."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def constant(self, value, kind=np.float32):
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.array(value, kind, order="C"), name))
        return name

    def node(self, op, *inputs, out=None, **attributes):
        self.count += 1
        out = out or f"v{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op}_{self.count}", **attributes))
        return out

    def gemm(self, x, w, b, out=None):
        return self.node("Gemm", x, self.constant(w), self.constant(b), out=out)

    def conv(self, x, w, b, stride=1):
        w = np.asarray(w).transpose(3, 2, 0, 1)
        return self.node("Conv", x, self.constant(w), self.constant(b), kernel_shape=[3, 3],
                         strides=[stride, stride], pads=[1, 1, 1, 1])

    def reshape(self, x, *shape):
        return self.node("Reshape", x, self.constant([0, *shape], np.int64))

    def spread(self, x):
        return self.node("DepthToSpace", x, blocksize=2, mode="DCR")

    def clip(self, x, low, high):
        return self.node("Clip", x, self.constant(low), self.constant(high))

    def pixels(self, x):
        """Whole numbers in [0, 255], channels first, to the output."""
        return self.node("Cast", self.node("Transpose", x, perm=[0, 2, 3, 1]), out="pixels", to=TensorProto.UINT8)

    def write(self, path, inputs, outputs):
        def info(name, kind, shape):
            return helper.make_tensor_value_info(name, kind, shape)
        graph = helper.make_graph(self.nodes, path.stem, [info(*i) for i in inputs],
                                  [info(*o) for o in outputs], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="karat", ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        for held in self.constants:
            if not np.isfinite(numpy_helper.to_array(held)).all():
                raise ValueError(f"{path.name}: constant {held.name} has values that are not finite")
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        print(f"{path.relative_to(MODELS)}: {path.stat().st_size} bytes")


GENERATOR_INPUTS = [("traits", TensorProto.FLOAT, ["N", WIDTH]), ("latent", TensorProto.FLOAT, ["N", LATENT_LENGTH])]
PIXELS = ("pixels", TensorProto.UINT8, ["N", IMAGE_SIZE, IMAGE_SIZE, 3])


def export_generator(p, path):
    g = Graph()
    given = g.node("Concat", "traits", "latent", axis=1)
    x = g.node("Relu", g.gemm(given, p["w1"], p["b1"]))
    style = g.node("Relu", g.gemm(x, p["w2"], p["b2"]))
    pairs = models.PAIRS.shape[1]
    both = g.node("Relu", g.gemm(given, models.PAIRS, -np.ones(pairs)))
    direct = g.gemm(both, p["wp"], p["bs"])
    x = g.node("Relu", g.node("Add", g.gemm(style, p["ws"], np.zeros_like(p["bs"])), direct))
    x = g.reshape(x, models.SEED_CHANNELS, models.SEED_SIZE, models.SEED_SIZE)
    for i, channels in enumerate((*models.STAGES, models.FINE)):
        x = g.conv(x, p[f"w_conv{i}"], p[f"b_conv{i}"])
        if i < len(models.STAGES):
            x = g.spread(x)
        shift = g.reshape(g.gemm(style, p[f"w_shift{i}"], p[f"b_shift{i}"]), channels, 1, 1)
        scale = g.reshape(g.gemm(style, p[f"w_scale{i}"], p[f"b_scale{i}"]), channels, 1, 1)
        x = g.node("Mul", g.node("Relu", g.node("Add", x, shift)), scale)
    x = g.spread(g.conv(x, p["w_out"] * 255.0, p["b_out"] * 255.0 + 0.5))
    g.pixels(g.node("Floor", g.clip(x, 0.0, 255.0)))
    g.write(path, GENERATOR_INPUTS, [PIXELS])


def whole_weights(name, w, b, in_bits, in_max, out_bits):
    """Whole-number weights and bias, the power of two of the result, and the proof of their range."""
    # The half makes Floor round to nearest; the same float32 sum is made in training.
    shifted = np.float32(b) + np.float32(0.5 * 2.0 ** -out_bits)
    scale_bits = np.asarray(models.weight_bits(w, shifted, in_bits, in_max), np.float64)
    whole = np.round(np.float64(w) * 2.0 ** scale_bits)
    offset = np.round(np.float64(shifted) * 2.0 ** (scale_bits + in_bits))
    bound = np.abs(whole).sum(axis=tuple(range(whole.ndim - 1))) * in_max + np.abs(offset)
    if not (bound < models.SUM_LIMIT).all():
        raise NotExact(f"{name}: a partial sum can reach {bound.max():.0f}, the limit is {models.SUM_LIMIT:.0f}")
    for part in (whole, offset):
        if not (np.float32(part) == part).all():
            raise NotExact(f"{name}: a weight is not a whole number that float32 holds")
    factor = 2.0 ** (out_bits - scale_bits - in_bits)
    return whole, offset, factor, bound


def export_exact(p, bits, path):
    g, report = Graph(), []

    def layer(name, x, w, b, in_bits, in_max, out_bits, low, high):
        w, b = np.asarray(w, np.float32), np.asarray(b, np.float32)
        whole, offset, factor, bound = whole_weights(name, w, b, in_bits, in_max, out_bits)
        report.append((name, bound.max()))
        x = g.conv(x, whole, offset) if w.ndim == 4 else g.gemm(x, whole, offset)
        factor = factor.reshape(1, -1, 1, 1) if w.ndim == 4 else factor.reshape(1, -1)
        x = g.node("Floor", g.node("Mul", x, g.constant(factor)))
        reach = (bound * factor.ravel()).max()
        if low is None:
            if reach > 2 ** 20:
                raise NotExact(f"{name}: a result can reach {reach:.0f}, the limit is 2^20")
            return x
        return g.clip(x, low, high)

    top, unit = models.Q_MAX, 2.0 ** models.INPUT_BITS
    given = g.node("Concat", "traits", "latent", axis=1)
    given = g.clip(g.node("Floor", g.node("Mul", given, g.constant(unit))), -unit, unit)
    x = layer("w1", given, p["w1"], p["b1"], models.INPUT_BITS, unit, bits["h1"], 0, top)
    style = layer("w2", x, p["w2"], p["b2"], bits["h1"], top, bits["h2"], 0, top)
    x = layer("ws", style, p["ws"], p["bs"], bits["h2"], top, bits["seed"], -8191, 8191)
    # 64 * (one + other - 1): small whole numbers, exact without further proof.
    both = g.clip(g.gemm(given, models.PAIRS, np.full(models.PAIRS.shape[1], -unit)), 0.0, unit)
    direct = layer("wp", both, p["wp"], np.zeros(p["wp"].shape[1]), models.INPUT_BITS, unit, bits["seed"], -8191, 8191)
    x = g.clip(g.node("Add", x, direct), 0, top)
    x = g.reshape(x, models.SEED_CHANNELS, models.SEED_SIZE, models.SEED_SIZE)
    x_bits = bits["seed"]
    for i, channels in enumerate((*models.STAGES, models.FINE)):
        pre, post = bits[f"pre{i}"], bits[f"post{i}"]
        x = layer(f"conv{i}", x, p[f"w_conv{i}"], p[f"b_conv{i}"], x_bits, top, pre, None, None)
        if i < len(models.STAGES):
            x = g.spread(x)
        shift = layer(f"shift{i}", style, p[f"w_shift{i}"], p[f"b_shift{i}"], bits["h2"], top, pre, -8191, 8191)
        scale = layer(f"scale{i}", style, p[f"w_scale{i}"], p[f"b_scale{i}"], bits["h2"], top, models.STYLE_BITS, -top, top)
        x = g.clip(g.node("Add", x, g.reshape(shift, channels, 1, 1)), 0, top)
        x = g.node("Mul", x, g.reshape(scale, channels, 1, 1))
        x = g.node("Floor", g.node("Mul", x, g.constant(2.0 ** (post - pre - models.STYLE_BITS))))
        x, x_bits = g.clip(x, -top, top), post
    x = layer("out", x, p["w_out"] * 255.0, p["b_out"] * 255.0, x_bits, top, 0, 0, 255)
    g.pixels(g.spread(x))
    g.write(path, GENERATOR_INPUTS, [PIXELS])
    for name, bound in report:
        print(f"  {name}: largest possible partial sum {bound:.0f} = 2^{np.log2(bound):.2f} < 2^24")


def export_auditor(p, path):
    g = Graph()
    x = g.node("Transpose", g.node("Cast", "pixels", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    x = g.node("Add", g.node("Mul", x, g.constant(2.0 / 255.0)), g.constant(-1.0))
    pooled = []
    for i, (_, stride) in enumerate(models.AUDITOR_CONVS):
        x = g.node("Relu", g.conv(x, p[f"w_conv{i}"], p[f"b_conv{i}"], stride))
        if i in models.POOLED:
            pooled.append(g.node("Flatten", g.node("GlobalAveragePool", x), axis=1))
    x = g.node("Concat", g.node("Flatten", x, axis=1), *pooled, axis=1)
    x = g.node("Relu", g.gemm(x, p["w_hidden"], p["b_hidden"]))
    g.gemm(x, p["w_traits"], p["b_traits"], out="trait_logits")
    g.node("Sigmoid", g.gemm(x, p["w_corruption"], p["b_corruption"]), out="corruption")
    g.gemm(x, p["w_embedding"], p["b_embedding"], out="embedding")
    g.write(path, [PIXELS], [("trait_logits", TensorProto.FLOAT, ["N", WIDTH]), ("corruption", TensorProto.FLOAT, ["N", 1]),
                             ("embedding", TensorProto.FLOAT, ["N", models.EMBEDDING])])


def main():
    export_generator(load("generator"), MODELS / "relics" / "generator.onnx")
    export_exact(*exact_parts(load("exact")), MODELS / "relics" / "generator-exact.onnx")
    export_auditor(load("auditor"), MODELS / "relics-auditor" / "auditor.onnx")


if __name__ == "__main__":
    main()

"""Writes the generators as ONNX files, and proves the exact variant exact before it writes it.

The proof: weights, biases and activations are whole numbers held in float32; for every output of
every Gemm and Conv, (sum of |weight|) * (largest input) + |bias| < 2^24. Whatever the order of a
summation, no partial sum can then leave the range in which float32 holds every whole number.
"""

import numpy as np
from onnx import TensorProto

import exact as arithmetic
from generator import CROSS, CROSS_BIAS, SEED_SIZE, SHAPES, SOURCES, TEMPLATE_SIZE, stages, template_inputs
from graph import PIXELS, Graph
from runtime import GENERATORS
from train_generator import weights_of
from vocabulary import LATENT_LENGTH, WIDTH

INPUTS = [("traits", TensorProto.FLOAT, ["N", WIDTH]), ("latent", TensorProto.FLOAT, ["N", LATENT_LENGTH])]


class NotExact(Exception):
    """A weight or a sum could leave the range in which float32 arithmetic is exact."""


def lookups(g, given, crossed):
    """For each group of templates the inputs that look it up."""
    for parts in template_inputs():
        columns = [g.columns(given if source == "traits" else crossed, where.start, where.stop) for source, where in parts]
        yield columns[0] if len(columns) == 1 else g.node("Concat", *columns, axis=1)


def coloured(g, shares, colours, unit):
    """Sums shares times colours (in steps of 255, times `unit`) and ends the graph in bytes.

    The four pixels of a place are mixed as they come out of the last convolution and spread afterwards.
    The cast drops the fraction of what is not negative, as Floor would, so the half rounds to nearest.
    """
    shares = g.reshape(shares, 4, SOURCES, TEMPLATE_SIZE ** 2)
    colours = g.node("Transpose", g.reshape(colours, 1, SOURCES, 3), perm=[0, 1, 3, 2])
    x = g.node("Add", g.node("MatMul", colours, shares), g.constant(0.5 * unit))
    if unit != 1.0:
        x = g.node("Mul", x, g.constant(1.0 / unit))
    x = g.clip(x, 0.0, 255.0)
    g.pixels(g.spread(g.reshape(x, 12, TEMPLATE_SIZE, TEMPLATE_SIZE), 2))


def export_generator(p, shape, path):
    g = Graph()

    def modulated(x, name, channels):
        shift, scale = (g.reshape(g.gemm(style, p[f"w_{name}_{part}"], p[f"b_{name}_{part}"]), channels, 1, 1)
                        for part in ("shift", "scale"))
        return g.node("Mul", g.node("Relu", g.node("Add", x, shift)), scale)
    given = g.node("Concat", "traits", "latent", axis=1)
    crossed = g.node("Relu", g.gemm(given, CROSS, CROSS_BIAS))
    x = g.node("Relu", g.gemm(g.node("Concat", given, crossed, axis=1), p["w_hidden"], p["b_hidden"]))
    style = g.node("Concat", g.node("Relu", g.gemm(x, p["w_style"], p["b_style"])), given, axis=1)
    x = g.node("Relu", g.gemm(style, p["w_seed"], p["b_seed"]))
    x = g.reshape(x, shape.seed, SEED_SIZE, SEED_SIZE)
    for name, _, channels, growth in stages(shape):
        if name == "fine":
            maps = [g.reshape(g.node("Gemm", inputs, g.constant(p[f"w_template{i}"])), shape.templates[i], TEMPLATE_SIZE, TEMPLATE_SIZE)
                    for i, inputs in enumerate(lookups(g, given, crossed))]
            if shape.gated:
                maps = [modulated(g.node("Concat", *maps, axis=1), "template", sum(shape.templates))]
            x = g.node("Concat", x, *maps, axis=1)
            if shape.light:
                x = g.conv(x, p["w_near"], p["b_near"], groups=sum(shape.templates) + shape.middle)
        y = g.conv(x, p[f"w_{name}"], p[f"b_{name}"])
        y = modulated(g.spread(y, growth), name, channels)
        x = g.node("Add", x, y) if name.endswith("more") else y
    shares = g.conv(x, p["w_shares"], p["b_shares"])
    coloured(g, shares, g.gemm(style, p["w_colours"] * 255.0, p["b_colours"] * 255.0), 1.0)
    g.write(path, INPUTS, [PIXELS])


def whole_weights(name, w, b, in_bits, in_max, out_bits):
    """Whole-number weights and bias, the power of two of the result, and the proof of their range."""
    # The half makes Floor round to nearest; the same float32 sum is made in training.
    shifted = np.float32(b) + np.float32(0.5 * 2.0 ** -out_bits)
    scale_bits = np.asarray(arithmetic.weight_bits(w, shifted, in_bits, in_max), np.float64)
    whole = np.round(np.float64(w) * 2.0 ** scale_bits)
    offset = np.round(np.float64(shifted) * 2.0 ** (scale_bits + in_bits))
    bound = np.abs(whole).sum(axis=tuple(range(whole.ndim - 1))) * in_max + np.abs(offset)
    if not (bound < arithmetic.SUM_LIMIT).all():
        raise NotExact(f"{name}: a partial sum can reach {bound.max():.0f}, the limit is {arithmetic.SUM_LIMIT:.0f}")
    for part in (whole, offset):
        if not (np.float32(part) == part).all():
            raise NotExact(f"{name}: a weight is not a whole number that float32 holds")
    factor = 2.0 ** (out_bits - scale_bits - in_bits)
    return whole, offset, factor, bound


def export_exact(p, bits, path):
    g, report, shape = Graph(), [], arithmetic.SHAPE
    top, wide, unit = arithmetic.Q_MAX, arithmetic.WIDE, 2.0 ** arithmetic.INPUT_BITS

    def layer(name, x, in_bits, in_max, out_bits, low, high, factor=1.0):
        """`low` None: the result is not clipped, and proved to stay below 2^20."""
        w = np.asarray(p[f"w_{name}"] * np.float32(factor), np.float32)
        b = np.asarray(p.get(f"b_{name}", np.zeros(w.shape[-1], np.float32)) * np.float32(factor), np.float32)
        whole, offset, scale, bound = whole_weights(name, w, b, in_bits, in_max, out_bits)
        report.append((name, bound.max()))
        x = g.conv(x, whole, offset) if w.ndim == 4 else g.gemm(x, whole, offset)
        scale = scale.reshape(1, -1, 1, 1) if w.ndim == 4 else scale.reshape(1, -1)
        x = g.node("Floor", g.node("Mul", x, g.constant(scale)))
        reach = (bound * scale.ravel()).max()
        if low is None:
            if reach > 2 ** 20:
                raise NotExact(f"{name}: a result can reach {reach:.0f}, the limit is 2^20")
            return x
        return g.clip(x, low, high)

    def modulated(x, name, channels):
        before, after = bits[f"{name}_before"], bits[f"{name}_after"]
        shift = layer(f"{name}_shift", style, bits["style"], top, before, -wide, wide)
        scale = layer(f"{name}_scale", style, bits["style"], top, arithmetic.STYLE_BITS, -top, top)
        x = g.clip(g.node("Add", x, g.reshape(shift, channels, 1, 1)), 0, top)
        x = g.node("Mul", x, g.reshape(scale, channels, 1, 1))
        x = g.node("Floor", g.node("Mul", x, g.constant(2.0 ** (after - before - arithmetic.STYLE_BITS))))
        return g.clip(x, -top, top)

    in_form = (arithmetic.INPUT_BITS, arithmetic.INPUT_MAX)
    given = g.node("Concat", "traits", "latent", axis=1)
    given = g.clip(g.node("Floor", g.node("Mul", given, g.constant(unit))), -unit, unit)
    # Whole numbers up to 2 * 64 out of sums of at most 59 products below 2^13: exact without further proof.
    crossed = g.clip(g.gemm(given, CROSS, CROSS_BIAS * unit), 0.0, arithmetic.INPUT_MAX)
    x = layer("hidden", g.node("Concat", given, crossed, axis=1), *in_form, bits["hidden"], 0, top)
    style = layer("style", x, bits["hidden"], top, bits["style"], 0, top)
    known = g.node("Floor", g.node("Mul", given, g.constant(2.0 ** (bits["style"] - arithmetic.INPUT_BITS))))
    style = g.node("Concat", style, g.clip(known, -top, top), axis=1)
    x = layer("seed", style, bits["style"], top, bits["seed"], 0, top)
    x = g.reshape(x, shape.seed, SEED_SIZE, SEED_SIZE)
    x_bits = bits["seed"]
    for name, _, channels, growth in stages(shape):
        if name == "fine":
            maps = [g.reshape(layer(f"template{i}", inputs, *in_form, bits["templates"], -top, top),
                              shape.templates[i], TEMPLATE_SIZE, TEMPLATE_SIZE)
                    for i, inputs in enumerate(lookups(g, given, crossed))]
            x = g.node("Concat", x, *maps, axis=1)
        x = layer(name, x, x_bits, top, bits[f"{name}_before"], None, None)
        x = modulated(g.spread(x, growth), name, channels)
        x_bits = bits[f"{name}_after"]
    shares = layer("shares", x, x_bits, top, bits["shares"], -top, top)
    colours = layer("colours", style, bits["style"], top, bits["colours"], -top, top, factor=255.0)
    unit = 2.0 ** (bits["shares"] + bits["colours"])
    report.append(("pixels", SOURCES * top * top + 0.5 * unit))
    if report[-1][1] >= arithmetic.SUM_LIMIT or unit < 2.0:
        raise NotExact(f"pixels: a partial sum can reach {report[-1][1]:.0f}, the limit is {arithmetic.SUM_LIMIT:.0f}")
    coloured(g, shares, colours, unit)
    g.write(path, INPUTS, [PIXELS])
    for name, bound in report:
        print(f"  {name}: largest possible partial sum {bound:.0f} = 2^{np.log2(bound):.2f} < 2^24")


def main():
    for variant, path in GENERATORS.items():
        weights, bits = weights_of(variant)
        if variant == "exact":
            export_exact(weights, bits, path)
        else:
            export_generator(weights, SHAPES[variant], path)


if __name__ == "__main__":
    main()

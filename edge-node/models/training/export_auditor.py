"""Writes the trained auditor as an ONNX file."""

import numpy as np
from onnx import TensorProto

import auditor as models
import drawer
from generator import CROSS, CROSS_BIAS, SOURCES, template_inputs
from graph import MODELS, PIXELS, Graph
from training import load
from vocabulary import WIDTH


def drawing(g, p, traits, latent):
    """drawer.mixed(*drawer.drawn_parts(...)), from -1 to 1 instead of 0 to 1."""
    def dense(x, name, factor=1.0):
        return g.gemm(x, p[f"draw_w_{name}"] * factor, p[f"draw_b_{name}"] * factor)

    def conv(x, name):
        return g.conv(x, p[f"draw_w_{name}"], p[f"draw_b_{name}"])

    given = g.node("Concat", traits, latent, axis=1)
    crossed = g.node("Relu", g.gemm(given, CROSS, CROSS_BIAS))
    style = g.node("Concat", g.node("Relu", dense(g.node("Concat", given, crossed, axis=1), "style")), given, axis=1)
    x = g.reshape(g.node("Relu", dense(style, "seed")), drawer.SEED, 8, 8)
    maps = [g.spread(g.node("Relu", conv(x, "grown")))]
    held = {"traits": given, "crossed": crossed}
    for i, (parts, channels) in enumerate(zip(template_inputs(), drawer.TEMPLATES)):
        columns = [g.columns(held[source], where.start, where.stop) for source, where in parts]
        columns = columns[0] if len(columns) == 1 else g.node("Concat", *columns, axis=1)
        maps.append(g.reshape(g.node("Gemm", columns, g.constant(p[f"draw_template{i}"])), channels, drawer.CELLS, drawer.CELLS))
    x = conv(g.node("Concat", *maps, axis=1), "fine")
    shift, scale = (g.reshape(dense(style, part), drawer.FINE, 1, 1) for part in ("shift", "scale"))
    x = g.node("Mul", g.node("Relu", g.node("Add", x, shift)), scale)
    shares = g.reshape(conv(x, "shares"), drawer.CELL, SOURCES, drawer.CELLS ** 2)
    colours = g.node("Transpose", g.reshape(dense(style, "colours", 2.0), 1, SOURCES, 3), perm=[0, 1, 3, 2])
    x = g.node("Add", g.node("MatMul", colours, shares), g.constant(-1.0))
    return g.reshape(x, models.HALVES, drawer.CELLS, drawer.CELLS)


def export_auditor(p, path):
    g = Graph()

    def conv(x, name, stride=1):
        return g.conv(x, p[f"w_{name}"], p[f"b_{name}"], stride)

    def relu(x):
        return g.node("Relu", x)

    def flat(x):
        return g.node("Flatten", x, axis=1)

    x = g.node("Transpose", g.node("Cast", "pixels", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    picture = x = g.node("Add", g.node("Mul", x, g.constant(2.0 / 255.0)), g.constant(-1.0))
    seen = {}
    for i, (_, _, stride) in enumerate(models.CONVS):
        x = seen[i] = relu(conv(x, f"conv{i}", stride))
    hidden = relu(g.gemm(flat(x), p["w_hidden"], p["b_hidden"]))

    guess = g.node("Sigmoid", g.gemm(hidden, p["w_guess"], p["b_guess"]))
    x = drawing(g, p, guess, g.clip(g.gemm(hidden, p["w_latent"], p["b_latent"]), -1.0, 1.0))
    halved = g.conv(picture, models.halved_weights(), [0.0] * models.HALVES, 4, edge=0)
    # Both signs of the difference: halved - x and x - halved.
    away = g.node("Mul", x, g.constant(-1.0))
    above, below = g.node("Add", halved, away), g.node("Add", x, g.node("Mul", halved, g.constant(-1.0)))
    differing = g.node("Concat", relu(above), relu(below), axis=1)
    look = relu(conv(seen[models.FINE], "look"))
    fine = relu(conv(g.node("Concat", differing, look, axis=1), "fine"))
    coarse = relu(conv(g.node("Concat", relu(conv(differing, "differing", 2)), seen[models.COARSE], axis=1), "coarse"))
    judged = [hidden]
    for name, x in (("fine", fine), ("coarse", coarse)):
        x = conv(x, f"{name}_map")
        judged += [flat(g.node("GlobalMaxPool", x)), flat(g.node("GlobalAveragePool", relu(x)))]
    judge = relu(g.gemm(g.node("Concat", *judged, axis=1), p["w_judge"], p["b_judge"]))
    g.gemm(hidden, p["w_traits"], p["b_traits"], out="trait_logits")
    g.node("Sigmoid", g.gemm(judge, p["w_corruption"], p["b_corruption"]), out="corruption")
    manner = p["w_manner"].reshape(drawer.CELLS, drawer.CELLS, models.HALVES, -1).transpose(2, 0, 1, 3).reshape(len(p["w_manner"]), -1)
    manner = g.node("Cast", g.constant(manner, np.uint8), to=TensorProto.FLOAT)     # a quarter of the bytes
    manner = g.node("Mul", g.node("Add", manner, g.constant(-128.0)), g.constant(p["s_manner"]))
    read = g.node("MatMul", g.node("MatMul", flat(above), manner), g.constant(p["w_read"]))
    g.node("Add", g.gemm(hidden, p["w_embedding"], p["b_embedding"]), read, out="embedding")
    g.write(path, [PIXELS], [("trait_logits", TensorProto.FLOAT, ["N", WIDTH]), ("corruption", TensorProto.FLOAT, ["N", 1]),
                             ("embedding", TensorProto.FLOAT, ["N", models.EMBEDDING])])


def main():
    export_auditor(load("auditor"), MODELS / "relics-auditor" / "auditor.onnx")


if __name__ == "__main__":
    main()

"""Builds ONNX graphs from trained arrays."""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vocabulary import IMAGE_SIZE

MODELS = pathlib.Path(__file__).resolve().parent.parent
PIXELS = ("pixels", TensorProto.UINT8, ["N", IMAGE_SIZE, IMAGE_SIZE, 3])


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

    def conv(self, x, w, b, stride=1, edge=None, groups=1):
        w = np.asarray(w).transpose(3, 2, 0, 1)
        return self.node("Conv", x, self.constant(w), self.constant(b), kernel_shape=list(w.shape[2:]),
                         strides=[stride, stride], pads=[(w.shape[2] - 1) // 2 if edge is None else edge] * 4, group=groups)

    def reshape(self, x, *shape):
        return self.node("Reshape", x, self.constant([0, *shape], np.int64))

    def columns(self, x, start, stop):
        return self.node("Slice", x, *(self.constant([v], np.int64) for v in (start, stop, 1)))

    def spread(self, x, growth=2):
        return x if growth == 1 else self.node("DepthToSpace", x, blocksize=growth, mode="DCR")

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

"""Measures what INT8 would give the small variant: cost and distance of a statically quantised copy."""

import logging
import pathlib
import tempfile

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from data import one_hot
from runtime import costs_us, generate, session
from similarity import dissimilarity


class Calibration(CalibrationDataReader):
    """Hands inputs to the quantiser, 50 at a time."""

    def __init__(self, indices, latent):
        traits = one_hot(indices)
        self.parts = iter([{"traits": traits[i:i + 50], "latent": latent[i:i + 50]} for i in range(0, len(traits), 50)])

    def get_next(self):
        return next(self.parts, None)


def measure(path, indices, latent, feed):
    """Costs of the float file and of its INT8 copy, and the distance between their pictures."""
    logging.disable(logging.WARNING)
    model = session(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "int8.onnx"
        quantize_static(path, copy, Calibration(indices[:200], latent[:200]), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "Gemm"])
        quantised, size = session(copy), copy.stat().st_size
    apart = dissimilarity(generate(model, indices[:400], latent[:400]), generate(quantised, indices[:400], latent[:400]))
    costs = costs_us({"float_us": (model, feed), "int8_us": (quantised, feed)})
    return {**costs, "int8_bytes": size, "distance": float(np.round(apart, 5))}

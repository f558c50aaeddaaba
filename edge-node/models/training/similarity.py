"""Distances between sets of pictures: PSNR and multi-scale structural similarity."""

import numpy as np

SCALES = (0.25, 0.35, 0.40)     # weights of 64 x 64, 32 x 32 and 16 x 16
WINDOW = 11
SIGMA = 1.5
C1, C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2


def psnr(a, b):
    """Mean over pictures, in dB."""
    error = ((a.astype(np.float32) - b.astype(np.float32)) ** 2).mean((1, 2, 3))
    return float(np.mean(10 * np.log10(255.0 ** 2 / np.maximum(error, 1e-3))))


def _smoothed(x):
    at = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(at ** 2) / (2 * SIGMA ** 2))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (1, 2):
        size = x.shape[axis] - WINDOW + 1
        x = sum(w * np.take(x, range(i, i + size), axis) for i, w in enumerate(weights))
    return x


def _halved(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def dissimilarity(a, b, chunk=200):
    """1 - MS-SSIM over the colour channels, three scales, mean over pictures: 0 for equal ones."""
    totals = []
    for start in range(0, len(a), chunk):
        x, y = (s[start:start + chunk].astype(np.float32) for s in (a, b))
        total = np.zeros(len(x))
        for scale, weight in enumerate(SCALES):
            mx, my = _smoothed(x), _smoothed(y)
            vx, vy, vxy = _smoothed(x * x) - mx * mx, _smoothed(y * y) - my * my, _smoothed(x * y) - mx * my
            part = (2 * vxy + C2) / (vx + vy + C2)
            if scale == len(SCALES) - 1:
                part = part * (2 * mx * my + C1) / (mx * mx + my * my + C1)
            total += weight * np.log(np.maximum(part.mean((1, 2, 3)), 1e-6))
            x, y = _halved(x), _halved(y)
        totals.append(np.exp(total))
    return float(1.0 - np.concatenate(totals).mean())

"""What every training stage shares: seeds, counts, the loop, and weights kept in the cache folder."""

import os
import time

# One thread a process: convolutions gain nothing from a second, and make_all.sh runs two stages side by side.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import numpy as np
import optax

from data import CACHE

SEED = 20261121
BATCH = 8                  # small batches: many short steps learn more a second than few good ones


def save(name, weights):
    CACHE.mkdir(parents=True, exist_ok=True)
    np.savez(CACHE / f"{name}.npz", **{k: np.asarray(v) for k, v in weights.items()})


def load(name):
    with np.load(CACHE / f"{name}.npz") as held:
        return {k: held[k] for k in held.files}


def optimizer(steps, peak, factors):
    """Adam with a short warm-up, then along a cosine down to nothing; `factors` is each weight's share of the peak."""
    def adam(factor):
        schedule = optax.warmup_cosine_decay_schedule(factor * peak / 50, factor * peak, min(300, steps // 10), steps)
        return optax.adam(schedule, b1=0.9, b2=0.99)
    return optax.chain(optax.clip_by_global_norm(1.0),
                       optax.multi_transform({factor: adam(factor) for factor in set(factors.values())}, factors))


def loop(label, weights, loss, batches, steps, peak, factor=lambda name: 1.0):
    """Trains for `steps`; `loss(weights, done, *batch)`, where `done` goes from 0 to 1; `factor(name)` scales a weight's steps."""
    tool = optimizer(steps, peak, {name: factor(name) for name in weights})
    state = tool.init(weights)

    @jax.jit
    def step(weights, state, done, *batch):
        value, slope = jax.value_and_grad(loss)(weights, done, *batch)
        change, state = tool.update(slope, state, weights)
        return optax.apply_updates(weights, change), state, value

    begun, used, seen = time.time(), time.process_time(), []
    for i in range(1, steps + 1):
        weights, state, value = step(weights, state, np.float32(i / steps), *next(batches))
        seen.append(value)
        if i % 250 == 0 or i == steps:
            print(f"{label} {i}/{steps} loss {float(np.mean(seen)):.5f}, {time.time() - begun:.0f} s, "
                  f"{time.process_time() - used:.0f} s of processor time", flush=True)
            seen = []
    return weights

"""A real CPU-bound workload: trains a tiny logistic regression in pure Python on every core.

usage: python examples/cpu_workload.py [SECONDS]
"""

import math
import multiprocessing
import os
import random
import sys
import time


def train(seed: int, seconds: float) -> tuple[int, float]:
    """Fit w·x + b to noisy points by stochastic gradient descent; returns steps and accuracy."""
    rng = random.Random(seed)
    points = [(x, 1.0 if x + rng.gauss(0, 0.3) > 0.2 else 0.0) for x in _spread(rng)]
    weight = bias = 0.0
    steps = 0
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for x, label in points:
            guess = 1 / (1 + math.exp(-(weight * x + bias)))
            weight -= 0.05 * (guess - label) * x
            bias -= 0.05 * (guess - label)
        steps += len(points)
    right = sum((weight * x + bias > 0) == (label > 0.5) for x, label in points)
    return steps, right / len(points)


def _spread(rng: random.Random) -> list[float]:
    return [rng.uniform(-1, 1) for _ in range(2000)]


def main() -> None:
    """Train on all cores for the given time."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    cores = os.cpu_count() or 1
    print(f"training on {cores} cores for {seconds:g} s …", flush=True)
    with multiprocessing.Pool(cores) as pool:
        results = pool.starmap(train, [(seed, seconds) for seed in range(cores)])
    steps = sum(count for count, _ in results)
    accuracy = sum(score for _, score in results) / len(results)
    print(f"{steps:,} steps, accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()

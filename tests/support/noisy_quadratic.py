"""The noisy quadratic model (Zhang et al. 2019, arXiv 1907.04164): what a batch does, worked out exactly.

Loss is half the sum of h_i theta_i^2 over 1,000 directions, h_i = 1/i; a gradient has the variance h_i / B
in each; every E[theta_i^2] is 1 at the start. SGD of a constant rate then gives

    E[theta_i^2] <- (1 - rate h_i)^2 E[theta_i^2] + rate^2 h_i / B

`python -m support.noisy_quadratic` in tests/ prints the table of docs/critical-batch.md.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from crossfoot.arithmetic.critical_batch import fitted

H = 1 / np.arange(1, 1001)
TARGET = 0.01 * 0.5 * H.sum()
"""1 % of the loss at the start."""
BATCHES = (1, 16, 32, 64, 100, 128, 256, 512, 1024)


def loss(step: int, rate: float, batch: int) -> float:
    """Expected after so many steps: of each direction the geometric series to its end."""
    kept = (1 - rate * H) ** 2
    rest = rate**2 * H / batch / (1 - kept)
    return float(0.5 * (H * (rest + (1 - rest) * kept**step)).sum())


def steps(rate: float, batch: int) -> float:
    """The first step after which the loss is at the target; infinite: it never is."""
    if loss(10**9, rate, batch) >= TARGET:
        return float("inf")
    low, high = 0, 1
    while loss(high, rate, batch) > TARGET:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if loss(middle, rate, batch) > TARGET else (low, middle)
    return high


@cache
def best(batch: int) -> tuple[float, float]:
    """The fewest steps of all constant rates, and such a rate."""
    rates = np.geomspace(1e-3, 1.99, 60)
    for _ in range(3):
        found = [(steps(rate, batch), rate) for rate in rates]
        fewest = min(found)[0]
        near = [at for at, (number, _) in enumerate(found) if number == fewest]
        rates = np.geomspace(rates[max(0, near[0] - 1)], rates[min(len(rates) - 1, near[-1] + 1)], 60)
    return fewest, float(np.median([rate for number, rate in found if number == fewest]))


def printed() -> str:
    """The table of docs/critical-batch.md: what is exact, and the fit of the first two columns."""
    exact = {batch: int(best(batch)[0]) for batch in BATCHES}
    fit = fitted(exact)
    assert fit is not None
    rows = [
        f"| {batch:,} | {number:,} | {batch * number:,} | {fit.steps(batch):,.0f} | {fit.misfit[batch]:.2f} |"
        for batch, number in exact.items()
    ]
    heads = ["| batch | steps | samples | fitted steps | measured / fitted |", "|--:|--:|--:|--:|--:|"]
    return "\n".join([*heads, *rows])


if __name__ == "__main__":
    print(printed())

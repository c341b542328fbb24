"""Random predictions and made-up costs that several tests of ensembles share."""

import numpy as np

from wbdc.ensemble.budget.cost import Cost

COST = Cost(
    fixed=5.0,
    decode={"224": 0.004, "288": 0.007},
    tower={"clip": ("224", 0.002), "swin": ("224", 0.003), "large": ("288", 0.006)},
    member={
        "a": ("clip", 2.0, 0.0005),
        "b": ("clip", 3.0, 0.0007),
        "c": ("swin", 1.0, 0.0004),
        "d": ("large", 4.0, 0.0009),
    },
    shared_cores=False,
)


def problem(
    members: int = 3, n: int = 240, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random members (M, n, 6), truth (n,) and folds (n,) of names."""
    random = np.random.default_rng(seed)
    truth = random.integers(6, size=n)
    m = random.dirichlet(np.ones(6), (members, n))
    m[:, np.arange(n), truth] += random.uniform(0, 0.6, (members, n))
    return (
        (m / m.sum(-1, keepdims=True)).astype(np.float32),
        truth,
        random.choice(["fold-0", "fold-1", "fold-2"], n),
    )

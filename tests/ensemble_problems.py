"""Random predictions and made-up costs that several tests of ensembles share."""

import numpy as np
from scipy.special import softmax

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
    conversion={"clip": 0.0, "swin": 0.0, "large": 0.0},
    shared_cores=False,
)
SUPPORT_CLASSES = [f"{i // 4:02d}{i % 4:02d}" for i in range(24)]
SUPPORT_BOUNDS = (50,)  # between rare and frequent ones


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


def worse_than_chance(truth: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities (n, C) of a member that avoids the true classes."""
    noise = np.random.default_rng(0).normal(size=(len(truth), classes))
    return softmax(noise - 2 * (np.arange(classes) == truth[:, None]), axis=1)


def posteriors(rare_signal: float, n: int = 1000, seed: int = 0) -> tuple:
    """Two members that know frequent classes, and a third that knows rare ones by `rare_signal`."""
    random = np.random.default_rng(seed)
    prior = 1 / np.arange(1, 25) ** 1.3
    prior /= prior.sum()
    truth = random.choice(24, size=n, p=prior)
    is_rare = np.bincount(truth, minlength=24) < SUPPORT_BOUNDS[0]

    def member(frequent: float, rare: float) -> np.ndarray:
        signal = np.where(is_rare, rare, frequent)
        seen = random.normal(size=(n, 24))
        seen[np.arange(n), truth] += signal[truth]
        logits = np.log(prior) + signal * seen - signal**2 / 2
        p = np.exp(logits - logits.max(1, keepdims=True))
        return (p / p.sum(1, keepdims=True)).astype(np.float32)

    frequent_signal = 1.0 if rare_signal > 1 else 2.0
    members = [member(2.0, 1.0), member(2.0, 1.0), member(frequent_signal, rare_signal)]
    return np.stack(members), truth, random.integers(4, size=n).astype(str)

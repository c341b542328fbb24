"""The sample of videos to time covers all archive sizes."""

import numpy as np
import pytest

from wbdc.submit.timing.sample import stratified_sample


def test_sample_covers_all_sizes_without_repeats():
    """Mutants: the first k videos; slow only among the largest 1 %."""
    sizes = np.random.default_rng(0).lognormal(11, 1, 25_000).astype(int)
    chosen = stratified_sample(sizes, 2048)
    assert len(set(chosen)) == 2048
    assert int(sizes.argmax()) in chosen
    assert chosen == stratified_sample(sizes, 2048) != stratified_sample(sizes, 2048, seed=1)
    assert np.mean(sizes[chosen]) == pytest.approx(sizes.mean(), rel=0.02)
    assert np.mean(sizes[chosen]) > 0.999 * sizes.mean()
    top = set(np.argsort(sizes)[-250:].tolist())
    assert len(top & set(chosen)) >= 20
    assert abs(np.corrcoef(np.arange(2048), sizes[chosen])[0, 1]) < 0.1, (
        "large ones are spread over the batches"
    )
    assert sorted(stratified_sample(sizes[:7], 2048)) == list(range(7))
    assert stratified_sample([], 5) == []
    assert (
        np.ptp(np.bincount(np.array(stratified_sample([0] * 1000, 100)) // 100, minlength=10)) < 25
    ), "equal sizes: random"

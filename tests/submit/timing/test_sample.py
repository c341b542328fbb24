"""The sample of videos to time covers all archive sizes."""

import numpy as np
import pytest

from wbdc.submit.timing.sample import stratified_sample

SIZES = np.random.default_rng(0).lognormal(11, 1, 25_000).astype(int)


def test_sample_contains_the_largest_video_and_no_video_twice():
    sample = stratified_sample(SIZES, 2048)
    assert len(set(sample)) == 2048
    assert int(SIZES.argmax()) in sample


def test_sample_depends_on_the_seed_alone():
    assert stratified_sample(SIZES, 2048) == stratified_sample(SIZES, 2048)
    assert stratified_sample(SIZES, 2048) != stratified_sample(SIZES, 2048, seed=1)


def test_sample_represents_all_sizes():
    """Mutants: the first k videos; slow only among the largest 1 %."""
    sample = stratified_sample(SIZES, 2048)
    assert np.mean(SIZES[sample]) == pytest.approx(SIZES.mean(), rel=0.02)
    assert np.mean(SIZES[sample]) > 0.999 * SIZES.mean()
    largest = set(np.argsort(SIZES)[-250:].tolist())
    assert len(largest & set(sample)) >= 20


def test_large_videos_are_spread_over_the_batches():
    sample = stratified_sample(SIZES, 2048)
    assert abs(np.corrcoef(np.arange(2048), SIZES[sample])[0, 1]) < 0.1


def test_few_videos_are_all_in_the_sample():
    assert sorted(stratified_sample(SIZES[:7], 2048)) == list(range(7))
    assert stratified_sample([], 5) == []


def test_equal_sizes_give_a_random_sample():
    sample = np.array(stratified_sample([0] * 1000, 100))
    assert np.ptp(np.bincount(sample // 100, minlength=10)) < 25

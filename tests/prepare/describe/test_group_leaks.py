"""Group leaks: found where neighbors recognize the group, not where a group only shares classes."""

import numpy as np
import pytest

from wbdc.prepare.describe.group_leaks import (
    MAX_LEAK_TEST_VIDEOS,
    frame_vectors,
    group_leak,
    sample_groups,
    text_vectors,
)

VIDEOS, CLASSES, GROUP_SIZE = 600, 20, 5
ALONE = np.arange(VIDEOS)  # no near-duplicates


def videos(leak: float, purity: float = 0.8, seed: int = 0) -> tuple:
    """Draw vectors that show the class and, by `leak`, the group, whose videos share a class."""
    random = np.random.default_rng(seed)
    groups = np.arange(VIDEOS) // GROUP_SIZE
    main_class = random.integers(CLASSES, size=groups.max() + 1)[groups]
    labels = np.where(random.random(VIDEOS) < purity, main_class, random.integers(CLASSES))
    vectors = random.normal(size=(VIDEOS, 64))
    vectors += 0.5 * random.normal(size=(CLASSES, 64))[labels]
    vectors += leak * random.normal(size=(groups.max() + 1, 64))[groups]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f"), labels, groups


def test_groups_that_vectors_show_are_a_leak():
    leak = group_leak(*videos(leak=1.0), ALONE)
    assert leak.is_notable
    assert leak.accuracy > 0.6 > 0.4 > leak.accuracy_between_groups
    assert (leak.videos, leak.groups) == (VIDEOS, VIDEOS // GROUP_SIZE)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("purity", [0.0, 0.8, 1.0])
def test_groups_that_only_share_a_class_are_no_leak(purity, seed):
    assert not group_leak(*videos(leak=0.0, purity=purity, seed=seed), ALONE).is_notable


def test_a_column_that_names_the_class_is_no_leak():
    vectors, labels, _ = videos(leak=0.0)
    assert group_leak(vectors, labels, labels, ALONE).difference == 0


def test_near_duplicates_are_in_one_fold_anyway():
    vectors, labels, groups = videos(leak=1.0)
    assert not group_leak(vectors, labels, groups, groups).is_notable


def test_videos_without_a_vector_are_not_compared():
    vectors, labels, groups = videos(leak=1.0)
    vectors[100:] = 0
    assert group_leak(vectors, labels, groups, ALONE).videos == 100
    vectors[10:] = 0
    assert group_leak(vectors, labels, groups, ALONE) is None
    assert group_leak(videos(leak=1.0)[0], labels, ALONE, ALONE) is None


def test_a_sample_holds_whole_groups():
    groups = np.random.default_rng(0).permutation(np.arange(9000) // 3)
    rows = sample_groups(groups)
    assert MAX_LEAK_TEST_VIDEOS <= len(rows) < MAX_LEAK_TEST_VIDEOS + 3
    assert (np.bincount(groups[rows], minlength=3000) % 3 == 0).all()


def test_vectors_of_similar_texts_and_frames_are_near():
    texts = text_vectors(["红烧肉的家常做法", "红烧肉的家常做法 2", "手机摄影入门教程", ""])
    similarity = texts @ texts.T
    assert similarity[0, 1] > 0.7
    assert similarity[0, 2] < 0.2
    assert similarity[0, 0] == pytest.approx(1, abs=1e-5)
    assert not texts[3].any()
    frames = frame_vectors([np.array([3, 0]), np.array([3, 7]), np.array([-1]), np.zeros(0, int)])
    assert frames[0] @ frames[1] > 0.9 > -0.9 > frames[0] @ frames[2]
    assert not frames[3].any()

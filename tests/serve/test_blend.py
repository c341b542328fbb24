"""Blending: arithmetic, order, and errors that name the member."""

import math

import numpy as np
import pytest

from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.serve.blend import MIN_FACTOR, blend_probabilities


def probabilities(
    members: int = 3, n: int = 50, classes: int = 7, seed: int = 0
) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.dirichlet(np.ones(classes), n).astype(np.float32) for _ in range(members)]


def test_a_blend_equals_the_longhand_mean():
    members, weights = probabilities(), [3.0, 1.0, 0.5]
    longhand = np.empty((50, 7))
    for i in range(50):
        for c in range(7):
            longhand[i, c] = (
                sum(w * float(m[i, c]) for w, m in zip(weights, members, strict=True)) / 4.5
            )
    blended = blend_probabilities(members, weights)
    assert blended.dtype == np.float32
    assert np.allclose(blended, longhand, atol=1e-7)
    assert np.allclose(blended.sum(1), 1, atol=1e-6)


def test_one_member_is_itself_bit_for_bit():
    (member,) = probabilities(1)
    assert np.array_equal(blend_probabilities([member], [0.3]), member)


def test_weights_are_normalized_and_a_zero_weight_changes_nothing():
    members = probabilities()
    assert np.array_equal(
        blend_probabilities(members, [1, 1, 2]), blend_probabilities(members, [2, 2, 4])
    )
    assert np.array_equal(
        blend_probabilities(members, [1, 0, 1]),
        blend_probabilities([members[0], members[2]], [1, 1]),
    )


def test_members_are_not_changed():
    members = probabilities()
    before = [m.copy() for m in members]
    blend_probabilities(members, [1, 2, 3])
    assert all(np.array_equal(a, b) for a, b in zip(members, before, strict=True))


def test_rows_are_blended_independently():
    members = probabilities()
    order = np.random.default_rng(1).permutation(50)
    assert np.array_equal(
        blend_probabilities([m[order] for m in members], [1, 2, 3]),
        blend_probabilities(members, [1, 2, 3])[order],
    )


def test_trap_29_a_blend_uses_only_the_listed_members(tmp_path, monkeypatch):
    """A blend saved beside its members does not become one of them: the list is explicit."""
    monkeypatch.chdir(tmp_path)
    members = probabilities()
    for i, member in enumerate(members):
        np.save(tmp_path / f"member-{i}.npy", member)
    first = blend_probabilities(members, [1, 1, 1])
    np.save(tmp_path / "member-blend.npy", first)
    assert np.array_equal(blend_probabilities(members, [1, 1, 1]), first)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 0, 1]])
def test_a_member_that_is_not_finite_is_named_with_its_rows(bad, weights):
    members = probabilities()
    members[1][[4, 9], [0, 3]] = bad
    with pytest.raises(IntegrityFault, match=r"member 2 of 3 is not finite in 2 of 50 rows"):
        blend_probabilities(members, weights)


def test_different_shapes_are_refused():
    members = probabilities()
    members[2] = members[2][:-1]
    with pytest.raises(
        IntegrityFault, match=r"member 3 of 3 has shape \(49, 7\), member 1 has \(50, 7\)"
    ):
        blend_probabilities(members, [1, 1, 1])


@pytest.mark.parametrize(
    "weights", [[1, 1], [1, -1, 1], [0, 0, 0], [1, float("nan"), 1], [1, float("inf"), 1], []]
)
def test_invalid_weights_are_refused(weights):
    with pytest.raises(UsageFault, match="weights"):
        blend_probabilities(probabilities(), weights)


def test_an_empty_blend_is_refused():
    with pytest.raises(UsageFault):
        blend_probabilities([], [])


def test_weights_of_each_class_are_divided_by_their_sum():
    members = [np.array([[0.2, 0.8]], np.float32), np.array([[0.6, 0.4]], np.float32)]
    blended = blend_probabilities(members, [[1, 0.5], [3, 0.5]])
    np.testing.assert_allclose(blended, [[0.5, 0.6]], rtol=1e-6)
    same = blend_probabilities(members, [[1, 1], [3, 3]])
    assert same.tobytes() == blend_probabilities(members, [1, 3]).tobytes()
    with pytest.raises(UsageFault, match="weights must be numbers of 0 or more"):
        blend_probabilities(members, [[1, 0], [3, 0]])
    with pytest.raises(UsageFault, match="2 members need as many weights"):
        blend_probabilities(members, [[1, 0, 1], [3, 0, 1]])


BY_CLASS = [[1, 3, 0, 1, 1, 2, 1], [2, 0, 4, 2, 1, 1, 5], [1, 1, 0, 1, 2, 1, 0]]  # of three members


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("is_by_class", [False, True])
def test_a_geometric_mean_is_that_of_a_longhand_reference(sharpness, is_by_class):
    members = probabilities()
    weights = BY_CLASS if is_by_class else [1, 2, 1]
    shares = np.array(weights, float).reshape(3, -1) * np.ones(7) / np.sum(weights, 0)
    blended = blend_probabilities(members, weights, sharpness)
    for row in range(len(members[0])):
        products = [
            math.prod(
                max(float(m[row, c]), MIN_FACTOR) ** (sharpness * share[c])
                for m, share in zip(members, shares, strict=True)
            )
            for c in range(members[0].shape[1])
        ]
        np.testing.assert_allclose(blended[row], np.array(products) / sum(products), rtol=1e-5)


def test_no_member_alone_excludes_a_class():
    first = np.array([[0.0, 1.0]], np.float32)
    second = np.array([[0.999999, 0.000001]], np.float32)
    blended = blend_probabilities([first, second], [1, 1], 1.0)
    np.testing.assert_allclose(blended, [[0.5, 0.5]], atol=1e-3)


def test_a_sharpness_is_above_0():
    members = [np.full((2, 2), 0.5, np.float32)] * 2
    with pytest.raises(UsageFault, match="sharpness above 0, got -1"):
        blend_probabilities(members, [1, 1], -1.0)

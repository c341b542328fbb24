"""Blend weights: the method suits the number of videos, and negligible members are dropped."""

from functools import partial

import numpy as np
import pytest
from ensemble_problems import problem

from wbdc.core.errors import UsageFault
from wbdc.ensemble.blend_weights import (
    METHODS,
    MIN_WEIGHT_RATIO,
    choose_method,
    fit_arithmetic,
    fit_weights,
)
from wbdc.ensemble.likelihood_weights import (
    maximum_likelihood_weights,
    mixture_weights,
    true_class_likelihoods,
)
from wbdc.ensemble.nested_blend import nested_blend
from wbdc.serve.blend import blend_probabilities

CLASSES = 20
nested = partial(nested_blend, fit=fit_arithmetic)


def simulate(
    strengths: list[float], n: int, seed: int, *, shared: float = 1.0, experts: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Members (M, n, C) whose logits share one noise and add their own; an expert knows every third
    class only. Returns members and truth.
    """
    random = np.random.default_rng(seed)
    truth = random.integers(CLASSES, size=n)
    logits = shared * random.normal(size=(n, CLASSES)) + random.normal(
        size=(len(strengths), n, CLASSES)
    )
    for number, strength in enumerate(strengths):
        is_expert = (truth % 3 == number) if experts else np.ones(n, bool)
        logits[number, np.arange(n), truth] += np.where(is_expert, strength, 0.5)
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return (raised / raised.sum(-1, keepdims=True)).astype(np.float32), truth


# name: (settings, by how much the nested accuracy may lie under that of the best member, whichever
# that turns out to be)
SETS = {
    "similar": ({"strengths": [2.2] * 8}, 0.0),
    "one strong": ({"strengths": [1.0] * 3 + [4.0] + [1.0] * 6}, 0.0),
    "complementary": ({"strengths": [4.0] * 3, "shared": 0.0, "experts": True}, 0.0),
    "mixed": ({"strengths": [2.6, 2.4, 2.2, 1.2, 1.0]}, 0.04),
}


def accuracies(name: str, n: int) -> np.ndarray:
    """Nested accuracy with the chosen method, with plain maximum likelihood, and of the best member
    afterwards, for 20 seeds: (20, 3).
    """
    rows = []
    for seed in range(20):
        m, truth = simulate(**SETS[name][0], n=n, seed=seed)
        folds, likelihoods = np.arange(n) % 3, true_class_likelihoods(m, truth)
        plain = np.empty(n, int)
        for fold in range(3):
            held_out = folds == fold
            weights = maximum_likelihood_weights(likelihoods[:, ~held_out])
            plain[held_out] = np.tensordot(weights, m[:, held_out], 1).argmax(1)
        rows.append(
            [
                (nested(m, truth, folds).argmax(1) == truth).mean(),
                (plain == truth).mean(),
                (m.argmax(2) == truth).mean(1).max(),
            ]
        )
    return np.array(rows)


@pytest.mark.parametrize("n", [60, 130])
@pytest.mark.parametrize("name", SETS)
def test_few_videos_are_blended_as_well_as_the_best_member_and_plain_maximum_likelihood(name, n):
    chosen, plain, best = accuracies(name, n).T
    assert (chosen - best >= -SETS[name][1]).all(), "never under the best member by more than noise"
    assert chosen.mean() >= plain.mean() - 0.002
    if name == "similar":
        assert chosen.mean() > plain.mean() + 0.02, (
            "few videos are not enough to learn weights of similar members"
        )


@pytest.mark.parametrize("seed", range(5))
def test_the_method_follows_the_members(seed):
    likelihoods = {
        name: true_class_likelihoods(*simulate(**settings, n=400, seed=seed))
        for name, (settings, _) in SETS.items()
    }
    assert choose_method(likelihoods["similar"])[0] == "equal"
    assert fit_weights(likelihoods["one strong"]).members == [3]
    assert fit_weights(likelihoods["mixed"]).members[:3] == [0, 1, 2]
    assert fit_weights(likelihoods["mixed"]).values[4] < 0.1


def test_the_simplest_method_within_one_standard_error_is_chosen():
    m, truth = simulate([2.4, 2.2, 2.2], 60, 3)
    method, trials = choose_method(true_class_likelihoods(m, truth))
    assert list(trials) == list(METHODS)
    assert method == "equal"
    assert trials["equal"] < max(trials.values()), (
        "another method is better, but not by more than its error"
    )
    useless = np.concatenate([m, np.full_like(m, 1 / CLASSES)])
    assert choose_method(true_class_likelihoods(useless, truth))[0] != "equal"


def test_one_member_or_one_video_needs_no_method():
    m, truth = simulate([2.0, 2.0], 30, 0)
    likelihoods = true_class_likelihoods(m, truth)
    assert fit_weights(likelihoods[:1]).values.tolist() == [1.0]
    assert fit_weights(likelihoods[:1]).trials == {}
    assert fit_weights(likelihoods[:, :1]).values.tolist() == [0.5, 0.5]
    assert fit_weights(likelihoods[:, :2]).values.sum() == pytest.approx(1)


def test_negligible_members_are_dropped_and_the_others_fitted_again_bit_for_bit():
    m, truth = simulate([4.0, 3.0, 2.0], 400, 0)
    useless = np.roll(m[:2], 1, axis=1)  # predictions of other videos
    likelihoods = true_class_likelihoods(np.concatenate([m[:1], useless, m[1:]]), truth)
    fitted = fit_weights(likelihoods)
    assert {1, 2} <= set(fitted.dropped)
    assert set(fitted.members) | set(fitted.dropped) == set(range(5))
    assert all(0 <= weight < MIN_WEIGHT_RATIO for weight in fitted.dropped.values())
    assert not fitted.values[list(fitted.dropped)].any()
    assert fitted.values.sum() == pytest.approx(1)
    refitted = fit_weights(likelihoods[fitted.members])
    assert refitted.values.tobytes() == fitted.values[fitted.members].tobytes()
    assert not refitted.dropped


def test_the_same_input_gives_the_same_bits_in_any_layout_of_memory():
    likelihoods = true_class_likelihoods(*simulate([2.6, 2.4, 2.2], 130, 1))
    assert (
        fit_weights(likelihoods).values.tobytes()
        == fit_weights(np.asfortranarray(likelihoods)).values.tobytes()
    )


def test_a_nested_blend_uses_weights_of_the_other_folds():
    m, truth, folds = problem()
    blended = nested(m, truth, folds)
    assert blended.dtype == np.float32
    for fold in np.unique(folds):
        held_out = folds == fold
        weights = fit_weights(true_class_likelihoods(m[:, ~held_out], truth[~held_out])).values
        expected = blend_probabilities([member[held_out] for member in m], weights)
        assert np.array_equal(blended[held_out], expected)


def test_nested_predictions_do_not_depend_on_their_own_labels():
    m, truth, folds = problem()
    held_out = folds == "fold-1"
    before = nested(m, truth, folds)
    after = nested(m, np.where(held_out, (truth + 1) % 6, truth), folds)
    assert np.array_equal(before[held_out], after[held_out])
    assert not np.array_equal(before[~held_out], after[~held_out])


def test_a_nested_blend_drops_negligible_members_inside_each_fold():
    """The score is that of what ships: a member that the other folds drop changes no prediction."""
    m, truth, folds = problem(2)
    m = np.concatenate([m, np.roll(m[:1], 1, axis=1)])
    for fold in np.unique(folds):
        held_out = folds == fold
        likelihoods = true_class_likelihoods(m[:, ~held_out], truth[~held_out])
        assert fit_weights(likelihoods).members == [0, 1]
        changed = m.copy()
        changed[2, held_out] = np.eye(6, dtype=np.float32)[0]
        blended, blended_changed = (nested(x, truth, folds) for x in (m, changed))
        assert np.array_equal(blended[held_out], blended_changed[held_out])
        assert mixture_weights(likelihoods)[2] > 0, "without dropping it would change some"


def test_fold_names_may_be_strings_or_numbers():
    m, truth, folds = problem()
    numbers = np.array([int(fold[-1]) for fold in folds])
    assert np.array_equal(
        nested(m, truth, folds),
        nested(m, truth, numbers),
    )


def test_several_members_need_two_folds():
    m, truth, _ = problem()
    with pytest.raises(UsageFault, match="all 240 videos are in fold 0, .* train a second fold"):
        nested(m, truth, np.zeros(240, int))
    assert np.array_equal(nested(m[:1], truth, np.zeros(240, int)), m[0])
    with pytest.raises(UsageFault, match="240 videos need as many fold names, got 239"):
        nested(m, truth, np.zeros(239, int))

"""Blend weights that ship: the method that few videos allow, and no member of negligible weight."""

import numpy as np
import pytest

from wbdc.ensemble.blend_weights import METHODS, MIN_WEIGHT_RATIO, choose_method, fit_weights
from wbdc.ensemble.evaluation import nested_blend
from wbdc.ensemble.mixture import maximum_likelihood_weights, true_class_likelihoods

CLASSES = 20


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
        knows = (truth % 3 == number) if experts else np.ones(n, bool)
        logits[number, np.arange(n), truth] += np.where(knows, strength, 0.5)
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
    out = []
    for seed in range(20):
        m, truth = simulate(**SETS[name][0], n=n, seed=seed)
        folds, given, plain = np.arange(n) % 3, true_class_likelihoods(m, truth), np.empty(n, int)
        for fold in range(3):
            held = folds == fold
            plain[held] = np.tensordot(
                maximum_likelihood_weights(given[:, ~held]), m[:, held], 1
            ).argmax(1)
        out.append(
            [
                (nested_blend(m, truth, folds).argmax(1) == truth).mean(),
                (plain == truth).mean(),
                (m.argmax(2) == truth).mean(1).max(),
            ]
        )
    return np.array(out)


@pytest.mark.parametrize("n", [60, 130])
@pytest.mark.parametrize("name", SETS)
def test_few_videos_are_blended_as_well_as_the_best_member_and_plain_maximum_likelihood(name, n):
    chosen, plain, best = accuracies(name, n).T
    assert (chosen - best >= -SETS[name][1]).all(), "never under the best member by more than noise"
    assert chosen.mean() >= plain.mean() - 0.002
    if name == "similar":
        assert chosen.mean() > plain.mean() + 0.02, "few videos teach no weights of similar members"


@pytest.mark.parametrize("seed", range(5))
def test_the_method_follows_the_members(seed):
    given = {
        name: true_class_likelihoods(*simulate(**settings, n=400, seed=seed))
        for name, (settings, _) in SETS.items()
    }
    assert choose_method(given["similar"])[0] == "equal"
    assert fit_weights(given["one strong"]).kept == [3]
    assert fit_weights(given["mixed"]).kept[:3] == [0, 1, 2]
    assert fit_weights(given["mixed"]).values[4] < 0.1


def test_the_simplest_method_within_one_standard_error_is_chosen():
    m, truth = simulate([2.4, 2.2, 2.2], 60, 3)
    method, trials = choose_method(true_class_likelihoods(m, truth))
    assert list(trials) == list(METHODS)
    assert method == "equal" and trials["equal"] < max(trials.values()), (
        "another method is better, but not by more than its error"
    )
    useless = np.concatenate([m, np.full_like(m, 1 / CLASSES)])
    assert choose_method(true_class_likelihoods(useless, truth))[0] != "equal"


def test_one_member_or_one_video_needs_no_method():
    m, truth = simulate([2.0, 2.0], 30, 0)
    given = true_class_likelihoods(m, truth)
    assert fit_weights(given[:1]).values.tolist() == [1.0]
    assert fit_weights(given[:1]).trials == {}
    assert fit_weights(given[:, :1]).values.tolist() == [0.5, 0.5]
    assert fit_weights(given[:, :2]).values.sum() == pytest.approx(1)


def test_negligible_members_are_dropped_and_the_others_fitted_again_bit_for_bit():
    m, truth = simulate([4.0, 3.0, 2.0], 400, 0)
    useless = np.roll(m[:2], 1, axis=1)  # answers given to the wrong videos
    given = true_class_likelihoods(np.concatenate([m[:1], useless, m[1:]]), truth)
    fitted = fit_weights(given)
    assert {1, 2} <= set(fitted.dropped)
    assert set(fitted.kept) | set(fitted.dropped) == set(range(5))
    assert all(0 <= weight < MIN_WEIGHT_RATIO for weight in fitted.dropped.values())
    assert not fitted.values[list(fitted.dropped)].any()
    assert fitted.values.sum() == pytest.approx(1)
    again = fit_weights(given[fitted.kept])
    assert again.values.tobytes() == fitted.values[fitted.kept].tobytes()
    assert not again.dropped


def test_the_same_input_gives_the_same_bits_in_any_layout_of_memory():
    given = true_class_likelihoods(*simulate([2.6, 2.4, 2.2], 130, 1))
    assert (
        fit_weights(given).values.tobytes()
        == fit_weights(np.asfortranarray(given)).values.tobytes()
    )

"""The Pareto frontier of ensembles: no subset beats it, and the best that fits is chosen."""

import json
from collections import Counter
from functools import partial
from itertools import chain, combinations, pairwise

import numpy as np
import pytest
from ensemble_problems import COST
from threadpoolctl import threadpool_info, threadpool_limits

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import IntegrityFault, OverBudget, UsageFault
from wbdc.ensemble import geometric_exponents, geometric_weights
from wbdc.ensemble.blend_weights import choose_method, fit_arithmetic, method_weights
from wbdc.ensemble.bootstrap import competition_scorer, paired_gain
from wbdc.ensemble.budget import approximate_scores, pareto, search_rows
from wbdc.ensemble.budget import candidates as candidates_module
from wbdc.ensemble.budget.approximate_scores import ApproximateScores
from wbdc.ensemble.budget.candidates import Candidate, CandidatePool
from wbdc.ensemble.budget.cost import Cost
from wbdc.ensemble.budget.pareto import (
    BudgetChoice,
    best_within_limit,
    choice_gain,
    dropped_members,
    pareto_frontier,
)
from wbdc.ensemble.evaluation import evaluate_ensemble
from wbdc.ensemble.geometric_choice import evaluate_geometric, is_clearly_likelier
from wbdc.ensemble.geometric_exponents import approximate_exponents
from wbdc.ensemble.likelihood_weights import maximum_likelihood_weights
from wbdc.ensemble.log_normalizer import LogNormalizer
from wbdc.ensemble.nested_blend import nested_blend
from wbdc.serve.blend import log_factors

nested = partial(nested_blend, fit=fit_arithmetic)
CLASSES = ["0000", "0001", "0002", "0100", "0101", "0203"]


def problem(
    members: int = 4, n: int = 120, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random members (M, n, 6), truth (n,) and folds (n,) of names."""
    random = np.random.default_rng(seed)
    truth = random.integers(6, size=n)
    m = random.dirichlet(np.ones(6), (members, n))
    m[:, np.arange(n), truth] += random.uniform(0, 0.6, (members, n))
    return (
        (m / m.sum(-1, keepdims=True)).astype(np.float32),
        truth,
        np.array(["fold-0", "fold-1", "fold-2"])[np.arange(n) % 3],
    )


def labels(truth: np.ndarray) -> list[str]:
    return [CLASSES[i] for i in truth]


def pool(
    m: np.ndarray,
    truth: np.ndarray,
    folds: np.ndarray,
    candidates: list[Candidate] | None = None,
    cost: Cost = COST,
    **settings,
) -> CandidatePool:
    """Candidates a, b, ... of one model each, 1,000 items, no margin, unless facts otherwise."""
    candidates = candidates or [Candidate(name, name, (name,)) for name in "abcd"[: len(m)]]
    return CandidatePool(
        candidates,
        m,
        truth,
        folds,
        CLASSES,
        WeChat2022(),
        cost,
        **{"items": 1000, "margin": 0.0, **settings},
    )


def alone(seconds: list[float]) -> Cost:
    """Models m0, m1, ... that share only the image settings. seconds: of each, per item."""
    return Cost(
        1.0,
        {"l": 0.0},
        {f"t{i}": ("l", s) for i, s in enumerate(seconds)},
        {f"m{i}": (f"t{i}", 0.0, 0.0) for i in range(len(seconds))},
        {f"t{i}": 0.0 for i in range(len(seconds))},
        False,
    )


def one_each(count: int) -> list[Candidate]:
    return [Candidate(f"run-{i}", f"run-{i}", (f"m{i}",)) for i in range(count)]


def test_a_run_costs_all_its_models_and_the_margin():
    m, truth, folds = problem(1)
    assert pool(m, truth, folds, [Candidate("run", "run", ("a", "b", "d"))], margin=0.25).seconds(
        (0,)
    ) == pytest.approx(1.25 * COST.seconds("abd", 1000))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shared", [False, True])
def test_the_exhaustive_frontier_equals_brute_force(seed, shared):
    m, truth, folds = problem(seed=seed)
    brute = {}
    for subset in chain.from_iterable(combinations(range(4), size) for size in (1, 2, 3, 4)):
        predictions = [CLASSES[i] for i in nested(m[list(subset)], truth, folds).argmax(1)]
        cost = COST._replace(shared_cores=shared).seconds(["abcd"[i] for i in subset], 1000)
        brute[tuple("abcd"[i] for i in subset)] = (
            cost,
            WeChat2022().score(labels(truth), predictions, CLASSES)["mean"],
        )
    expected = [
        s
        for s, (cost, score) in brute.items()
        if not any(c <= cost and v >= score and (c, v) != (cost, score) for c, v in brute.values())
    ]
    frontier = pareto_frontier(pool(m, truth, folds, cost=COST._replace(shared_cores=shared)))
    assert [c.members for c in frontier] == sorted(expected, key=lambda s: brute[s][0])
    assert np.allclose(
        [(c.seconds, c.score) for c in frontier], [brute[c.members] for c in frontier], atol=0
    )
    assert {c.search for c in frontier} == {"exhaustive"}


def test_scores_of_the_frontier_rise_and_equal_those_of_the_report():
    m, truth, folds = problem()
    frontier = pareto_frontier(pool(m, truth, folds))
    assert len(frontier) > 2
    for cheaper, dearer in pairwise(frontier):
        assert cheaper.seconds < dearer.seconds
        assert cheaper.score < dearer.score
    for choice in frontier:
        rows = ["abcd".index(name) for name in choice.members]
        facts = evaluate_ensemble(
            choice.members, m[rows], truth, folds, CLASSES, WeChat2022(), draws=2
        )
        assert (choice.score, choice.weights) == (
            facts["ensemble"]["score"]["mean"],
            facts["weights"],
        )


@pytest.mark.parametrize("mean", ["geometric", "auto"])
def test_subsets_are_compared_by_the_mean_of_the_ensemble(mean):
    m, truth, folds = problem(n=240)
    # a and b each exclude other classes, which only a product does for both
    group = np.array([0, 0, 0, 1, 1, 2])
    place = np.array([0, 1, 2, 0, 1, 0])
    for member, code in enumerate((group, place)):
        m[member] *= np.where(code == code[truth][:, None], 12, 1)
    m /= m.sum(2, keepdims=True)
    frontier = pareto_frontier(pool(m, truth, folds, mean=mean))
    means = set()
    for choice in frontier:
        rows = ["abcd".index(name) for name in choice.members]
        inputs = (choice.members, m[rows], truth, folds, CLASSES, WeChat2022())
        report = evaluate_ensemble(*inputs, draws=2)
        report, _ = evaluate_geometric(report, *inputs, mean=mean, draws=2)
        assert choice.score == report["ensemble"]["score"]["mean"]
        assert choice.weights == report["weights"]
        assert (choice.mean == "geometric") == report["geometric"]["used"]
        means.add(choice.mean)
    assert "geometric" in means
    plain = pareto_frontier(pool(m, truth, folds))
    assert max(choice.score for choice in frontier) > max(choice.score for choice in plain)


def longhand_scores(
    scores: ApproximateScores, subsets: list[tuple[int, ...]], threads: int = 1
) -> list[float]:
    """Score subsets one by one: fits of each fold apart, a row and a class at a time, and labels
    scored as ids.
    """
    search, pool = scores.search, scores.fold_weights

    def arithmetic(subset: tuple[int, ...]) -> np.ndarray:
        rules = []
        for likelihoods, size in zip(pool.likelihoods, pool.sizes, strict=True):
            chosen = likelihoods[list(subset), :size]
            fitted = maximum_likelihood_weights(chosen)
            rules.append(method_weights(choose_method(chosen)[0], np.log(chosen), fitted))
        members = search.probabilities[:, list(subset)]
        return np.einsum("nmk,nm->nk", members, np.stack(rules)[scores.folds])

    def geometric(subset: tuple[int, ...]) -> np.ndarray:
        members = search.probabilities[:, list(subset)].transpose(1, 2, 0)
        factors = np.ascontiguousarray(log_factors(members).astype(np.float32))
        true_factors = factors[:, search.truth, np.arange(len(search.truth))]
        exponents, _ = approximate_exponents(factors - true_factors[:, None])
        return np.exp(np.tensordot(exponents, factors, 1)).T

    def score(blended: np.ndarray) -> float:
        codes = np.take_along_axis(search.classes, blended.argmax(1)[:, None], axis=1)[:, 0]
        return WeChat2022().score(labels(scores.true_codes), labels(codes), CLASSES)["mean"]

    results = []
    for subset in subsets:
        blends = [arithmetic(subset)]
        if scores.mean == "auto" and len(subset) > 1:
            product = geometric(subset)
            if is_clearly_likelier(product, blends[0], search.truth):
                blends.append(product)
        results.append(max(score(blended) for blended in blends))
    return results


@pytest.mark.parametrize("mean", ["arithmetic", "auto"])
def test_a_search_chooses_as_one_that_scores_subsets_one_by_one(mean, monkeypatch):
    m, truth, folds = problem(5, n=240, seed=5)
    seconds = alone([0.01, 0.02, 0.01, 0.03, 0.02])
    searched = pool(m, truth, folds, one_each(5), seconds, mean=mean)
    chosen = pareto_frontier(searched)
    subsets = [*combinations(range(5), 2), (0,), (1, 2, 3, 4), (0, 1, 2, 3, 4)]
    scores = searched.approximate_scores.scores(subsets)
    assert scores == pytest.approx(longhand_scores(searched.approximate_scores, subsets), abs=1e-12)
    monkeypatch.setattr(ApproximateScores, "scores", longhand_scores)
    assert pareto_frontier(pool(m, truth, folds, one_each(5), seconds, mean=mean)) == chosen
    assert len(chosen) > 2
    assert len(set(scores)) > 10


def experts(decoys: int, n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three members that each know two classes and are at a loss elsewhere, after decoys that are
    right by chance; the first is the best alone.
    """
    random = np.random.default_rng(7)
    truth = random.integers(6, size=n)
    m = random.dirichlet(np.ones(6), (decoys + 3, n))
    m[0, np.arange(n), truth] += np.where(random.random(n) < 0.7, 3, 0)
    for expert in range(3):
        m[decoys + expert] = np.where((truth // 2 == expert)[:, None], np.eye(6)[truth], 1 / 6)
    return (m / m.sum(-1, keepdims=True)).astype(np.float32), truth, np.arange(n) % 3


@pytest.mark.parametrize("decoys", [3, 11])
def test_greedy_search_finds_the_planted_best_behind_a_better_first_step(decoys, monkeypatch):
    m, truth, folds = experts(decoys)
    candidates = pool(m, truth, folds, one_each(decoys + 3), alone([0.01] * (decoys + 3)))
    monkeypatch.setattr(pareto, "MAX_EXHAUSTIVE_CANDIDATES", 5)
    frontier = pareto_frontier(candidates)
    planted = tuple(f"run-{decoys + i}" for i in range(3))
    assert frontier[0].members == ("run-0",)
    assert (
        best_within_limit(frontier, 1e9).members,
        best_within_limit(frontier, 1e9).score,
        frontier[-1].search,
    ) == (planted, 1.0, "greedy")


@pytest.mark.parametrize("seed", range(2))
def test_greedy_search_reaches_the_exhaustive_best_of_six(seed, monkeypatch):
    m, truth, folds = problem(6, seed=seed)
    candidates = pool(m, truth, folds, one_each(6), alone([0.01, 0.02, 0.01, 0.03, 0.02, 0.05]))
    exhaustive = pareto_frontier(candidates)
    monkeypatch.setattr(pareto, "MAX_EXHAUSTIVE_CANDIDATES", 0)
    greedy = pareto_frontier(candidates)
    assert greedy[-1].members == exhaustive[-1].members


def choice(name: str, seconds: float, score: float) -> BudgetChoice:
    return BudgetChoice((name,), seconds, score, {name: 1.0}, "exhaustive")


def test_the_best_is_the_highest_score_that_fits_and_the_limit_itself_fits():
    choices = [choice("x", 10, 0.5), choice("y", 20, 0.6), choice("z", 30, 0.7)]
    assert [
        best_within_limit(choices, limit).members[0]
        for limit in (10, 19.9, 20, 29, 30, float("inf"))
    ] == ["x", "x", "y", "y", "z", "z"]


def test_of_equal_scores_the_cheaper_is_best():
    assert best_within_limit(
        [choice("x", 20, 0.6), choice("y", 10, 0.6), choice("z", 15, 0.5)], 100
    ).members == ("y",)


def test_an_error_names_the_cheapest_when_nothing_fits():
    m, truth, folds = problem()
    with pytest.raises(
        OverBudget,
        match=r"the cheapest ensemble, c, needs 11\.00 s with its margin, the limit is 10\.99 s",
    ) as raised:
        best_within_limit(
            pareto_frontier(pool(m, truth, folds, margin=0.1)), 10.99
        )  # (5 + 1 + 4) * 1.1
    assert raised.value.code == 5


def test_equal_members_leave_only_the_cheaper():
    m, truth, folds = problem(1)
    frontier = pareto_frontier(
        pool(np.repeat(m, 3, axis=0), truth, folds, one_each(3), alone([0.02, 0.01, 0.03]))
    )
    assert [c.members for c in frontier] == [("run-1",)]


def test_equal_members_of_equal_cost_leave_the_first():
    m, truth, folds = problem(1)
    frontier = pareto_frontier(
        pool(np.repeat(m, 2, axis=0), truth, folds, one_each(2), alone([0.01, 0.01]))
    )
    assert [c.members for c in frontier] == [("run-0",)]


def variants() -> CandidatePool:
    """A run with three folds, the same with one, and another run."""
    m, truth, folds = problem(2)
    candidates = [
        Candidate("run", "run", ("m0", "m1", "m2")),
        Candidate("run of 1", "run", ("m1",)),
        Candidate("other", "other", ("m3",)),
    ]
    return pool(m[[0, 0, 1]], truth, folds, candidates, alone([0.01] * 4))


@pytest.mark.parametrize("search", [pareto._exhaustive_trials, pareto._greedy_trials])
def test_variants_of_one_run_are_never_together(search, monkeypatch):
    candidates = variants()
    trials = search(candidates)
    assert not any({0, 1} <= set(subset) for subset in trials)
    assert (1, 2) in trials
    if search is pareto._greedy_trials:
        monkeypatch.setattr(pareto, "MAX_EXHAUSTIVE_CANDIDATES", 0)
    # the one-fold variant has the same predictions for less
    assert all("run" not in choice.members for choice in pareto_frontier(candidates))


def test_a_dropped_candidate_is_measured_in_place_of_its_other_variant():
    candidates = variants()
    dropped = dropped_members(candidates, pareto_frontier(candidates)[-1], draws=5)
    assert pareto_frontier(candidates)[-1].members == ("run of 1", "other")
    assert [(d.name, d.gain) for d in dropped] == [("run", (0, 0, 0))]
    assert dropped[0].seconds == pytest.approx(2 * 0.01 * 1000)


def test_a_dropped_candidate_costs_only_what_it_does_not_share():
    m, truth, folds = problem()
    candidates = pool(m, truth, folds, cost=COST._replace(shared_cores=True), margin=0.5)
    dropped = {
        d.name: d for d in dropped_members(candidates, choice("a", 1, 0.5), draws=50, seed=3)
    }
    assert list(dropped) == ["b", "c", "d"]
    assert dropped["b"].seconds == pytest.approx(
        1.5 * (3 + 1000 * 0.0007)
    )  # tower and frames are shared
    assert dropped["c"].seconds == pytest.approx(1.5 * (1 + 1000 * (0.003 + 0.0004)))
    assert dropped["d"].seconds == pytest.approx(1.5 * (4 + 1000 * (0.007 + 0.006 + 0.0009)))
    predictions = [nested(m[rows], truth, folds).argmax(1) for rows in ([0, 1], [0])]
    assert dropped["b"].gain == paired_gain(
        *(competition_scorer(WeChat2022(), truth, codes, CLASSES) for codes in predictions),
        len(truth),
        draws=50,
        seed=3,
    )


def test_the_scores_of_a_subset_are_drawn_once(monkeypatch):
    """Those of the chosen ensemble are compared with the next cheaper one and with every dropped
    candidate.
    """
    counts, draw = Counter(), candidates_module.draw_scores
    monkeypatch.setattr(
        candidates_module,
        "draw_scores",
        lambda *inputs, **settings: counts.update(["draws"]) or draw(*inputs, **settings),
    )
    candidates = pool(*problem())
    frontier = pareto_frontier(candidates)
    choice_gain(candidates, frontier, frontier[1], draws=5)
    dropped = dropped_members(candidates, frontier[1], draws=5)
    assert len(dropped) > 1
    cheaper_and_chosen = 2
    assert counts["draws"] == cheaper_and_chosen + len(dropped)


def test_the_lead_is_the_gain_over_the_next_cheaper_choice():
    m, truth, folds = problem()
    candidates = pool(m, truth, folds)
    frontier = pareto_frontier(candidates)
    assert choice_gain(candidates, frontier, frontier[0], draws=5) is None
    facts = choice_gain(candidates, frontier, frontier[2], draws=50)
    assert facts.difference == pytest.approx(frontier[2].score - frontier[1].score)
    assert facts.difference > 0
    assert facts.low < facts.difference < facts.high


def test_choices_and_dropped_members_are_plain_values():
    m, truth, folds = problem()
    candidates = pool(m, truth, folds)
    frontier = pareto_frontier(candidates)
    for facts in [c.to_dict() for c in frontier] + [
        d.to_dict() for d in dropped_members(candidates, frontier[0], draws=5)
    ]:
        assert json.loads(json.dumps(facts)) == facts
    assert set(frontier[0].to_dict()) == {
        "members",
        "seconds",
        "score",
        "weights",
        "search",
        "mean",
    }
    assert set(dropped_members(candidates, frontier[0], draws=5)[0].to_dict()["gain"]) == {
        "difference",
        "low",
        "high",
        "verdict",
    }


def test_the_same_input_gives_the_same_frontier_in_any_order_of_candidates():
    m, truth, folds = problem()
    first, second = (pareto_frontier(pool(m, truth, folds)) for _ in range(2))
    turned = pareto_frontier(
        pool(m[::-1], truth, folds, [Candidate(name, name, (name,)) for name in "dcba"])
    )
    assert first == second
    assert [set(c.members) for c in first] == [set(c.members) for c in turned]


@pytest.mark.parametrize("limit", [12, 0])  # an exhaustive and a greedy search
def test_any_number_of_threads_gives_the_same_bits(limit, monkeypatch):
    monkeypatch.setattr(pareto, "MAX_EXHAUSTIVE_CANDIDATES", limit)
    m, truth, folds = problem()
    facts = []
    for threads in (1, 3):
        candidates = pool(m, truth, folds, mean="auto")
        frontier = pareto_frontier(candidates, threads=threads)
        dropped = dropped_members(candidates, frontier[0], draws=5, threads=threads)
        facts.append(repr((frontier, dropped)))
        assert len(dropped) == 3
    assert facts[0] == facts[1]


def test_a_search_and_the_gains_of_dropped_runs_use_one_thread_of_blas(monkeypatch):
    m, truth, folds = problem()
    candidates = pool(m, truth, folds)
    seen = []
    predictions = CandidatePool.predictions

    def count_threads(pool, subset):
        seen.append({i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"})
        return predictions(pool, subset)

    monkeypatch.setattr(CandidatePool, "predictions", count_threads)
    with threadpool_limits(3, user_api="blas"):
        frontier = pareto_frontier(candidates, threads=2)
        searched = len(seen)
        dropped_members(candidates, frontier[0], draws=5)
    assert len(seen) > searched > 0
    assert seen == [{1}] * len(seen)


def test_exponents_of_the_frontier_are_learned_on_a_limited_number_of_rows(monkeypatch):
    monkeypatch.setattr(geometric_weights, "MAX_FITTED_VIDEOS", 50)
    sizes = []

    class CountedNormalizer(LogNormalizer):
        def __init__(self, factors, row_sets):
            super().__init__(factors, row_sets)
            sizes.extend(self.sizes)

    monkeypatch.setattr(geometric_exponents, "LogNormalizer", CountedNormalizer)
    m, truth, folds = problem(3, n=600)
    candidates = pool(m, truth, folds, mean="geometric")
    assert len(candidates.predictions((0, 1, 2))) == 600
    assert sizes == [50] * 4  # three folds, and all rows


def test_several_candidates_need_two_folds():
    m, truth, _ = problem(2)
    assert pareto_frontier(pool(m[:1], truth, np.zeros(120, int)))[0].weights == {"a": 1.0}
    with pytest.raises(UsageFault, match="all 120 videos are in fold 0, .* train a second fold"):
        pool(m, truth, np.zeros(120, int))


def test_errors_name_the_candidate_or_the_setting():
    m, truth, folds = problem(2)
    with pytest.raises(UsageFault, match="different names, got .*: a, a"):
        pool(m, truth, folds, [Candidate("a", "a", ("a",)), Candidate("a", "a", ("b",))])
    with pytest.raises(UsageFault, match="n folds"):
        pool(m, truth, folds[:-1])
    with pytest.raises(UsageFault, match="candidate y has no models"):
        pool(m, truth, folds, [Candidate("x", "x", ("a",)), Candidate("y", "y", ())])
    with pytest.raises(UsageFault, match="no model called 'e'"):
        pool(m, truth, folds, [Candidate("x", "x", ("a",)), Candidate("y", "y", ("e",))])
    with pytest.raises(UsageFault, match="candidate a would need nan seconds"):
        pool(m, truth, folds, cost=COST._replace(fixed=float("nan")))
    with pytest.raises(UsageFault, match="a margin of 0 or more, got 1000 and -0.1"):
        pool(m, truth, folds, margin=-0.1)
    with pytest.raises(UsageFault, match="items of 1 or more"):
        pool(m, truth, folds, items=0)
    m[1, 7, (truth[7] + 1) % 6] = np.nan
    with pytest.raises(IntegrityFault, match="member 2 of 2 is not finite in 1 of 120 rows"):
        pool(m, truth, folds)


def test_approximate_scores_cost_the_same_for_any_number_of_rows(monkeypatch):
    """A search over 12 runs of 100,000 videos scores 4,095 subsets."""
    monkeypatch.setattr(approximate_scores, "MAX_FITTED_ROWS", 50)
    monkeypatch.setattr(search_rows, "MAX_SCORED_ROWS", 80)
    monkeypatch.setattr(search_rows, "MAX_BLENDED_CLASSES", 3)
    scored_rows = []
    score = approximate_scores.score_predictions

    def count_scored(contest, truth, *predictions):
        scored_rows.append(len(truth))
        return score(contest, truth, *predictions)

    monkeypatch.setattr(approximate_scores, "score_predictions", count_scored)
    m, truth, folds = problem(4, n=2000)
    many = pool(m, truth, folds)
    exact = many.score(many.predictions((0, 1, 3)))
    scored_rows.clear()
    many = many.approximate_scores
    assert many.scores([(0, 1, 3)]) == [pytest.approx(exact, abs=0.15)]
    assert many.fold_weights.likelihoods.shape == (3, 4, 50)  # folds, members, rows
    assert scored_rows == [80]
    assert many.search.probabilities.shape == (80, 4, 3)


def test_a_draw_of_the_bootstrap_repeats_no_row(monkeypatch):
    m, truth, _ = problem(1)
    calls = []
    score = WeChat2022.score
    monkeypatch.setattr(WeChat2022, "score", lambda *words: calls.append(1) or score(*words))
    scorers = [competition_scorer(WeChat2022(), truth, codes, CLASSES) for codes in (truth, truth)]
    paired_gain(*scorers, len(truth), draws=50)
    assert calls == []

"""Evaluation of an ensemble: nested scores, intervals and the gain over the best member."""

import json

import numpy as np
import pytest
from ensemble_problems import problem
from sklearn.metrics import log_loss, roc_auc_score

from wbdc.competitions import open_competition
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.ensemble.blend_weights import fit_arithmetic, fit_weights
from wbdc.ensemble.evaluation import evaluate_ensemble
from wbdc.ensemble.geometric_choice import evaluate_geometric
from wbdc.ensemble.geometric_weights import fit_geometric, learn_geometric_weights
from wbdc.ensemble.likelihood_weights import true_class_likelihoods
from wbdc.ensemble.nested_blend import nested_blend

CLASSES = ["0000", "0001", "0002", "0100", "0101", "0203"]


def ids(codes: np.ndarray) -> list[str]:
    return [CLASSES[code] for code in codes]


def test_dropped_members_are_reported_with_the_score_of_the_others():
    m, truth, folds = problem(2)
    m = np.concatenate([m, np.roll(m[:1], 1, axis=1)])
    report = evaluate_ensemble(["a", "b", "c"], m, truth, folds, CLASSES, WeChat2022(), draws=20)
    (dropped,) = report["dropped"]
    assert (dropped["name"], report["weights"]["c"]) == ("c", 0)
    assert "below 1% of the largest" in dropped["reason"]
    report_of_two = evaluate_ensemble(
        ["a", "b"], m[:2], truth, folds, CLASSES, WeChat2022(), draws=20
    )
    assert report_of_two["weights"] == {name: report["weights"][name] for name in "ab"}
    assert report_of_two["dropped"] == []
    assert "score_without_dropped" not in report_of_two
    assert report_of_two["ensemble"]["score"]["mean"] == report["score_without_dropped"]


def test_the_report_holds_plain_values():
    m, truth, folds = problem()
    report = evaluate_ensemble(["a", "b", "c"], m, truth, folds, CLASSES, WeChat2022(), draws=100)
    assert json.loads(json.dumps(report)) == report
    assert report["weights"] == dict(
        zip("abc", fit_weights(true_class_likelihoods(m, truth)).values, strict=True)
    )
    assert report["weighting"]["method"] in report["weighting"]["trials"]
    assert report["dropped"] == []
    assert list(report["members"]) == ["a", "b", "c"]
    predicted = ids(nested_blend(m, truth, folds, fit_arithmetic).argmax(1))
    assert report["ensemble"]["score"] == WeChat2022().score(ids(truth), predicted, CLASSES)
    assert report["ensemble"]["official"] == WeChat2022().score(ids(truth), predicted)
    means = {name: entry["score"]["mean"] for name, entry in report["members"].items()}
    assert report["best"] == max(means, key=means.get)
    assert report["gain"]["difference"] == pytest.approx(
        report["ensemble"]["score"]["mean"] - means[report["best"]]
    )
    for entry in (report["ensemble"], *report["members"].values()):
        assert entry["interval"][0] < entry["score"]["mean"] < entry["interval"][1]


@pytest.mark.parametrize("members", [1, 2])
def test_identical_members_are_within_noise(members):
    m, truth, folds = problem(1)
    report = evaluate_ensemble(
        ["a", "b"][:members],
        np.repeat(m, members, axis=0),
        truth,
        folds,
        CLASSES,
        WeChat2022(),
        draws=50,
    )
    assert report["weights"] == pytest.approx(dict.fromkeys(["a", "b"][:members], 1 / members))
    assert report["ensemble"] == report["members"]["a"]
    assert report["gain"] == {"difference": 0, "low": 0, "high": 0, "verdict": "within noise"}


def test_a_single_member_needs_only_one_fold():
    m, truth, _ = problem(2)
    assert evaluate_ensemble(
        ["a"], m[:1], truth, np.zeros(240, int), CLASSES, WeChat2022(), draws=5
    )["weights"] == {"a": 1.0}
    with pytest.raises(UsageFault, match="second fold"):
        evaluate_ensemble(["a", "b"], m, truth, np.zeros(240, int), CLASSES, WeChat2022(), draws=5)


def test_errors_name_the_members():
    m, truth, folds = problem(2)
    with pytest.raises(UsageFault, match="different names"):
        evaluate_ensemble(["a", "a"], m, truth, folds, CLASSES, WeChat2022())
    m[1, 7, (truth[7] + 1) % 6] = np.nan  # not the truth's column
    with pytest.raises(IntegrityFault, match="member 2 of 2 is not finite in 1 of 240 rows"):
        evaluate_ensemble(["a", "b"], m, truth, folds, CLASSES, WeChat2022())


@pytest.mark.parametrize("metric", ["log_loss", "auc"])
def test_a_score_of_probabilities_is_that_of_the_blended_probabilities(tmp_path, metric):
    settings = f'classes = {json.dumps(CLASSES)}\nmetric = "{metric}"\n'
    (tmp_path / "my.toml").write_text(
        settings + 'labeled = "a.csv"\ntest = "b.csv"\nid = "id"\ntext = ["t"]\nlabel = "y"\n'
    )
    contest = open_competition(str(tmp_path / "my.toml"))
    m, truth, folds = problem(2, n=120)
    report = evaluate_ensemble(["a", "b"], m, truth, folds, CLASSES, contest, draws=20)
    blended = nested_blend(m, truth, folds, fit_arithmetic)
    expected = {
        "log_loss": lambda: log_loss(truth, blended.astype(np.float64), labels=range(6)),
        "auc": lambda: roc_auc_score(truth, blended, multi_class="ovr"),
    }[metric]()
    assert report["ensemble"]["score"][metric] == pytest.approx(expected, abs=1e-6)
    means = {name: entry["score"]["mean"] for name, entry in report["members"].items()}
    assert report["best"] == max(means, key=means.get)
    low, high = report["ensemble"]["interval"]
    assert low < report["ensemble"]["score"]["mean"] < high


@pytest.fixture
def experts():
    """The inputs of two members: one knows the top-level class, the other the class within it."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 6, 240)
    group = np.array([0, 0, 0, 1, 1, 2])
    place = np.array([0, 1, 2, 0, 1, 0])
    signals = [code == code[truth][:, None] for code in (group, place)]
    logits = np.stack([2.5 * signal + random.normal(size=(240, 6)) for signal in signals])
    members = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    return ["a", "b"], members.astype(np.float32), truth, np.arange(240) % 3, CLASSES, WeChat2022()


def test_a_geometric_mean_is_used_where_held_out_videos_are_likelier(experts):
    names, members, truth, folds, *_ = experts
    report = evaluate_ensemble(*experts, draws=100)
    changed, sharpness = evaluate_geometric(report, *experts, draws=100)
    assert json.loads(json.dumps(changed)) == changed
    fitted = learn_geometric_weights(members, truth)
    assert sharpness == changed["geometric"]["sharpness"] == fitted.sharpness
    assert changed["weights"] == dict(zip(names, fitted.values, strict=True))
    predicted = ids(nested_blend(members, truth, folds, fit_geometric).argmax(1))
    assert changed["ensemble"]["score"] == WeChat2022().score(ids(truth), predicted, CLASSES)
    assert changed["geometric"]["gain"]["difference"] == pytest.approx(
        changed["ensemble"]["score"]["mean"] - report["ensemble"]["score"]["mean"]
    )


def test_a_mean_can_be_chosen(experts):
    report = evaluate_ensemble(*experts, draws=20)
    changed, sharpness = evaluate_geometric(report, *experts, mean="arithmetic", draws=20)
    assert (changed["geometric"], sharpness) == ({"used": False, "reason": "not requested"}, 0)
    with pytest.raises(UsageFault, match="geometrc"):
        evaluate_geometric(report, *experts, mean="geometrc")


def test_the_arithmetic_mean_stays_where_the_other_is_no_better():
    """Members that know the same, and how likely each class is."""
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(6), 240)
    truth = np.array([random.choice(6, p=p) for p in probabilities])
    members = np.stack([probabilities, probabilities]).astype(np.float32)
    inputs = (["a", "b"], members, truth, np.arange(240) % 3, CLASSES, WeChat2022())
    report = evaluate_ensemble(*inputs, draws=50)
    changed, sharpness = evaluate_geometric(report, *inputs, draws=50)
    assert not changed["geometric"]["used"]
    assert sharpness == 0
    assert {**changed, "geometric": None} == {**report, "geometric": None}
    forced, forced_sharpness = evaluate_geometric(report, *inputs, mean="geometric", draws=50)
    assert forced["geometric"]["used"]
    assert forced_sharpness > 0


def test_one_fold_has_no_geometric_mean(experts):
    names, members, truth, folds, *rest = experts
    report = evaluate_ensemble(*experts, draws=20)
    inputs = (names, members, truth, np.zeros(240, int), *rest)
    changed, _ = evaluate_geometric(report, *inputs, draws=20)
    assert changed["geometric"] == {"used": False, "reason": "it needs 2 folds or more"}
    with pytest.raises(UsageFault, match="train a second fold"):
        evaluate_geometric(report, *inputs, mean="geometric")

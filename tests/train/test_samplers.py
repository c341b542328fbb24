"""Samplers: the frequencies that their papers define, fixed lengths, and orders that are a function
of (seed, epoch).
"""

from collections import Counter

import numpy as np
import pytest
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import samplers
from wbdc.train.samplers import Sampler, draw_count, draw_repeated, epoch_order
from wbdc.train.task import Task

TASK = Task(("a", "b", "c"), (1, 1, 1), (), ("title",), total_steps=0, batch_size=8, seed=0)
LABELS = np.array([0] * 60 + [1] * 12 + [2] * 3)
MIXED = np.concatenate([LABELS, [-1] * 20])  # 20 videos without a label
EXPECTED_SETTINGS = {
    "shuffled": {},
    "tempered": {"temperature": 0.3},
    "repeat_factor": {"threshold": 0.2},
    "length_buckets": {"window": 3},
}
every_sampler = pytest.mark.parametrize("use", EXPECTED_SETTINGS)


def build(use: str, labels: np.ndarray = LABELS, **settings: object) -> Sampler:
    lengths = np.random.default_rng(1).integers(1, 200, len(labels))
    return plug.build_plug(samplers, {"use": use, **settings}, labels, lengths, TASK)


def frequencies(sampler: Sampler, epochs: int = 400) -> np.ndarray:
    """Return how often each video is drawn in an epoch on average."""
    drawn = np.concatenate([epoch_order(sampler, 0, epoch) for epoch in range(epochs)])
    return np.bincount(drawn, minlength=len(sampler.labels)) / epochs


def test_every_sampler_has_settings_here():
    assert sorted(EXPECTED_SETTINGS) == plug.plug_names(samplers)


@every_sampler
@pytest.mark.parametrize("labels", [LABELS, MIXED, np.array([1])], ids=["all", "mixed", "one"])
def test_the_order_is_a_function_of_seed_and_epoch_and_its_length_is_fixed(use, labels):
    sampler = build(use, labels, **EXPECTED_SETTINGS[use])
    orders = {key: epoch_order(sampler, *key) for key in ((0, 0), (0, 1), (1, 0))}
    assert all(len(order) == len(sampler) for order in orders.values())
    for key in reversed(orders):
        assert np.array_equal(orders[key], epoch_order(sampler, *key))
    if len(labels) > 1:
        assert len({tuple(order) for order in orders.values()}) == 3


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_trap_18_the_default_order_is_the_permutation_of_seed_and_epoch(count):
    sampler = build("shuffled", np.zeros(count, int))
    for seed, epoch in ((0, 0), (0, 5), (3, 1)):
        longhand = np.random.default_rng([seed, epoch]).permutation(count)
        assert np.array_equal(epoch_order(sampler, seed, epoch), longhand)


@pytest.mark.parametrize("use", ["shuffled", "length_buckets"])
@pytest.mark.parametrize("count", [3, 8, 50, 161])
def test_no_video_is_lost_or_repeated(use, count):
    sampler = build(use, np.full(count, -1), **EXPECTED_SETTINGS[use])
    assert sorted(epoch_order(sampler, 0, 0)) == list(range(count))


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_tempered_draws_classes_by_their_count_to_a_power(temperature):
    sampler = build("tempered", temperature=temperature)
    powers = np.array([60.0, 12.0, 3.0]) ** temperature
    expected = 75 * powers / powers.sum()
    for epoch in range(20):
        counts = np.bincount(LABELS[epoch_order(sampler, 0, epoch)], minlength=3)
        assert counts.sum() == len(sampler) == 75
        assert (abs(counts - expected) < 2).all(), "in every epoch, and not on average only"

    drawn = frequencies(sampler)
    for label, size in enumerate((60, 12, 3)):
        assert drawn[label == LABELS] == pytest.approx(expected[label] / size, abs=0.15)


def test_temperature_one_draws_every_video_once():
    assert sorted(epoch_order(build("tempered", temperature=1.0), 0, 0)) == list(range(75))


def test_repeat_factors_are_those_of_lvis():
    """The factor is sqrt(t / f): f = .8, .16 and .04, t = .2."""
    sampler = build("repeat_factor", threshold=0.2)
    factors = {0: 1.0, 1: np.sqrt(0.2 / 0.16), 2: np.sqrt(0.2 / 0.04)}
    assert len(sampler) == int(60 * factors[0] + 12 * factors[1] + 3 * factors[2])
    drawn = frequencies(sampler)
    for label, factor in factors.items():
        assert drawn[label == LABELS] == pytest.approx(factor, abs=0.1)
    for epoch in range(20):
        counts = np.bincount(epoch_order(sampler, 0, epoch), minlength=75)
        for label, factor in factors.items():
            assert set(counts[label == LABELS]) <= {int(factor), int(np.ceil(factor))}
    assert len(build("repeat_factor")) == 75, "no class is rarer than one video in a thousand"


@pytest.mark.parametrize("use", ["tempered", "repeat_factor"])
def test_videos_without_a_label_are_drawn_once(use):
    sampler = build(use, MIXED, **EXPECTED_SETTINGS[use])
    order = epoch_order(sampler, 0, 0)
    assert Counter(order[order >= 75]) == dict.fromkeys(range(75, 95), 1)
    assert len(sampler) - 20 == len(build(use, **EXPECTED_SETTINGS[use]))


def test_length_buckets_pad_less_and_still_mix():
    sampler = build("length_buckets", np.zeros(803, int), window=50)
    lengths = sampler.lengths
    order = epoch_order(sampler, 0, 0)
    assert _padding(lengths[order]) < 0.1 * _padding(lengths)
    means = lengths[order[:800]].reshape(100, 8).mean(1)
    assert abs(np.corrcoef(np.arange(100), means)[0, 1]) < 0.3, "long batches come at any time"
    last = [set(epoch_order(sampler, 0, epoch)[800:]) for epoch in range(50)]
    assert len(set.union(*last)) > 100, "the videos without a batch are others in each epoch"


def _padding(lengths: np.ndarray) -> int:
    """Return the padding of the texts in 100 batches of 8."""
    batches = lengths[:800].reshape(100, 8)
    return int((batches.max(1, keepdims=True) - batches).sum())


def test_repeated_draws_hold_their_counts_for_any_expectation():
    generator = np.random.default_rng(0)
    for _ in range(200):
        count = int(generator.integers(1, 30))
        expected = generator.random(count) * generator.integers(1, 4)
        labels = generator.integers(-1, 3, count)
        drawn = draw_repeated(expected, labels, generator)
        assert len(drawn) == draw_count(expected)
        times = np.bincount(drawn, minlength=count)
        assert (times >= np.floor(expected)).all()
        assert (times <= np.ceil(expected)).all()


@pytest.mark.parametrize(
    ("table", "labels", "message"),
    [
        ({"use": "tempered"}, [-1, -1], "'tempered' draws by class, and none of the 2 training"),
        ({"use": "repeat_factor"}, [-1], "'repeat_factor' draws by class"),
        ({"use": "tempered", "temperature": 1.5}, [0], "temperature = 1.5; it must be between"),
        ({"use": "repeat_factor", "threshold": 0.0}, [0], "threshold = 0.0; it must be above 0"),
        ({"use": "length_buckets", "window": 0}, [0], "window = 0; it must be at least 1"),
        ({"use": "shufled"}, [0], "no sampler called 'shufled'; did you mean 'shuffled'"),
    ],
)
def test_a_wrong_sampler_is_refused(table, labels, message):
    with pytest.raises(UsageFault, match=message):
        plug.build_plug(samplers, table, np.array(labels), np.ones(len(labels)), TASK)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1], r"of shape \(2,\); draw must return integers of shape \(3,\)"),
        ([0.0, 1.0, 2.0], "returned float64"),
        ([0, 1, 3], "from 0 to 3; those of the training videos are 0 to 2"),
        ([0, -1, 1], "from -1 to 1"),
    ],
)
def test_impossible_positions_of_a_sampler_are_refused(order, message):
    class Broken(Sampler):
        def draw(self, generator):
            return order

    with pytest.raises(UsageFault, match=message):
        epoch_order(Broken(np.zeros(3, int), np.ones(3, int), TASK), 0, 0)


def test_a_class_sampler_without_the_labeled_split_is_refused_by_a_dry_run(kit, ready):
    words = ("pretrain", "--kit", kit, "--work", ready, "--dry-run")
    changes = ('pretrain.splits=["unlabeled"]', 'pretrain.sampler={use="tempered"}')
    result = toys.wbdc(*words, *(word for change in changes for word in ("--set", change)))
    assert result.exit_code == 2
    assert "sampler 'tempered' needs labels, and no split" in result.stderr


def test_the_steps_of_a_training_follow_from_the_sampler(fresh, kit):
    """22 videos of a fold; with repeated ones, an epoch has more batches of 4."""
    common = ("train", "--kit", kit, "--work", fresh, "--fold", 0, "--threads", 1)
    common += ("--set", "train.epochs=1", "--set", "train.trick=[]", "--set")
    plain = toys.run_json(*common, 'train.sampler={use="shuffled"}')
    longer = toys.run_json(*common, 'train.sampler={use="repeat_factor", threshold=1.0}')
    assert plain["folds"]["0"]["steps"] == 5
    assert longer["folds"]["0"]["steps"] > 5

"""The schedule under a deadline, with a virtual clock: the machine's speed does not matter."""

import math
import threading
import time

import numpy as np
import pytest
import small
import torch
import toys

from wbdc.competitions import Source, Video
from wbdc.serve import reader, scoring_run
from wbdc.serve.blend import blend_probabilities
from wbdc.serve.engine import InferenceEngine, Predictions
from wbdc.serve.scheduler import DeadlineScheduler, no_deadline, seconds_until

CPU, WEIGHTS = torch.device("cpu"), [1.0, 3.0, 2.0]


class Clock:
    """Virtual seconds left."""

    def __init__(self, seconds_left: float):
        self.seconds_left = seconds_left

    def __call__(self) -> float:
        return self.seconds_left


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Video]:
    home = tmp_path_factory.mktemp("videos")
    return [
        Video(
            f"v{i}",
            {"title": "标题字幕" * (i % 5), "asr": "一二三"},
            None,
            Source(small.pack(home / f"v{i}.zip", small.frames(small.photos(2, seed=i)))),
        )
        for i in range(12)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list:
    """Three members, the second and third with one tower, which gives four vectors a frame."""
    home, lead = tmp_path_factory.mktemp("members"), toys.model(seed=1, patch_grid=2)
    third = toys.model("cross_attention", seed=2, patch_grid=2)
    third.vision.load_state_dict(lead.vision.state_dict())
    return [
        toys.member(home / "0", toys.model(seed=0), batch=1),
        toys.member(home / "1", lead, batch=1),
        toys.member(home / "2", third, "cross_attention", batch=1),
    ]


def predict_within(
    folders, videos, seconds: float, *, slow_start: float = 0.0, behind: int = 0
) -> tuple[Predictions, int]:
    """Predict with so many virtual seconds: each encoding takes 10, each fusion 1, and the first
    three steps slow_start more. behind: groups that are launched before the results of the first
    are read, as for a GPU. Return the predictions and the number of decoded videos.
    """
    clock = Clock(seconds)
    engine = InferenceEngine(folders, WEIGHTS, CPU, torch.float32, 1)
    steps, decodes = [], []
    engine.read_ahead = 0
    launch, decode = InferenceEngine.launch, reader.decode_frames

    def costly(self, batches, stages, features):
        before = set(features)
        wait = launch(self, batches, stages, features)

        def wait_at_a_cost():
            scores = wait()
            for i in batches:
                seconds = 1 if self.towers[i] in before else 11
                before.add(self.towers[i])
                stages.member_seconds[i] += seconds
                clock.seconds_left -= seconds
            if batches and engine.order[0] in batches:
                clock.seconds_left -= slow_start if len(steps) < 3 else 0
                steps.append(1)
            return scores

        return wait_at_a_cost

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InferenceEngine, "launch", costly)
        patch.setattr(scoring_run, "groups_behind", lambda device: behind)
        patch.setattr(
            reader, "decode_frames", lambda *arguments: (decodes.append(1), decode(*arguments))[1]
        )
        return engine.predict(videos, seconds_left=clock), len(decodes)


@pytest.fixture
def alone(folders, videos):
    return [
        InferenceEngine([folder], [1.0], CPU, torch.float32, 1).predict(videos).probabilities
        for folder in folders
    ]


# seconds that a video takes
ALL = 23  # two encodings and three fusions
FIRST = 11  # one encoding and one fusion
FUSE = 1


@pytest.mark.parametrize(
    ("seconds", "slow_start", "complete", "decoded"),
    [
        (12 * ALL + 24, 0, [0, 1, 2], 12),
        (
            4 * ALL + 60 + 8 * (FIRST + FUSE + FIRST) + 60,
            20,
            [0, 1, 2],
            20,
        ),  # the slow start was misleading: 8 videos are read again for the other tower
        (
            4 * ALL + 8 * (FIRST + FUSE) + 30,
            0,
            [1, 2],
            None,
        ),  # the member that shares the tower costs one fusion; the other does not end
        (4 * ALL + 8 * FIRST + 12, 0, [1], None),
    ],
)
def test_fault_37_only_members_that_scored_every_video_are_blended(
    folders, videos, alone, seconds, slow_start, complete, decoded
):
    predictions, decodes = predict_within(folders, videos, seconds, slow_start=slow_start)
    assert predictions.dropped_members == [i for i in range(3) if i not in complete]
    assert predictions.unscored_videos == 0
    assert np.array_equal(
        predictions.probabilities,
        blend_probabilities([alone[i] for i in complete], [WEIGHTS[i] for i in complete]),
    ), "all rows, bit for bit"
    assert decoded in (None, decodes)


@pytest.mark.parametrize("seconds", [1000, 4 * ALL + 8 * (FIRST + FUSE) + 30, 70.0])
def test_results_that_are_read_one_group_behind_are_the_same_bits(folders, videos, alone, seconds):
    """With all members, with those that end in time, and when time is up before the last group."""
    predictions, _ = predict_within(folders, videos, seconds, behind=1)
    complete = [i for i in range(3) if i not in predictions.dropped_members]
    assert complete == {1000: [0, 1, 2], 70.0: [1]}.get(seconds, [1, 2])
    blended = blend_probabilities([alone[i] for i in complete], [WEIGHTS[i] for i in complete])
    same = (predictions.probabilities == blended).all(1)
    assert same.sum() == len(videos) - predictions.unscored_videos
    assert (predictions.unscored_videos > 0) == (seconds == 70.0)


def test_features_that_are_not_cached_are_computed_again_to_the_same_bits(
    folders, videos, alone, monkeypatch
):
    monkeypatch.setattr(scoring_run, "MAX_CACHED_BYTES", 0)
    predictions, _ = predict_within(
        folders, videos, 4 * ALL + 60 + 8 * FIRST + 8 * FIRST + 60, slow_start=20
    )
    assert predictions.dropped_members == [0]
    assert np.array_equal(
        predictions.probabilities, blend_probabilities([alone[1], alone[2]], [3.0, 2.0])
    )


def test_fault_37_every_video_has_a_prediction_when_no_member_ends(folders, videos, alone):
    predictions, _ = predict_within(folders, videos, 70.0)
    assert predictions.unscored_videos > 0
    assert predictions.dropped_members == [0, 2]
    assert np.isfinite(predictions.probabilities).all()
    np.testing.assert_allclose(predictions.probabilities.sum(1), 1, rtol=1e-5)
    same = (predictions.probabilities == alone[1]).all(1)
    assert same.sum() == len(videos) - predictions.unscored_videos
    assert len(np.unique(predictions.probabilities[~same], axis=0)) == 1
    none, _ = predict_within(folders, videos, 0.0)
    assert none.unscored_videos == len(videos)
    assert np.allclose(none.probabilities, 1 / toys.CLASSES)


def test_fault_26_a_reader_that_hangs_costs_its_videos_and_not_the_result(
    folders, videos, monkeypatch
):
    never, decode = threading.Event(), reader.decode_frames
    monkeypatch.setattr(
        reader,
        "decode_frames",
        lambda *arguments: (
            never.wait(60) if arguments[3] == "v7" else None,  # the name of the video
            decode(*arguments),
        )[1],
    )
    engine = InferenceEngine(folders, WEIGHTS, CPU, torch.float32, 1)
    end = time.monotonic() + 1.5
    predictions = engine.predict(videos, seconds_left=lambda: end - time.monotonic())
    never.set()
    assert 0 < predictions.unscored_videos < len(videos)
    assert np.isfinite(predictions.probabilities).all()


def test_the_deadline_has_a_reserve_and_without_one_time_is_unlimited():
    remaining = seconds_until(100.0, lambda: 40.0)
    assert remaining() == pytest.approx(60 - 2 - 2)
    assert seconds_until(None, lambda: 1e9) is no_deadline
    assert no_deadline() == math.inf


def run_steps(
    costs: list[float], seconds: float, followers: float = 0.0, steps: int = 10, skipped: int = 0
) -> list[bool]:
    """Take steps of some seconds each; return after each whether all members may go on."""
    clock = Clock(seconds)
    scheduler, allowed = DeadlineScheduler(steps, clock, skipped), []
    for cost in costs:
        clock.seconds_left -= cost
        scheduler.step("all", followers)
        allowed.append(scheduler.allows_all())
    return allowed


def test_the_speed_is_used_after_three_steps_and_a_hurry_never_ends():
    assert run_steps([12, 12, 12, 0, 0], 100) == [True, True, False, False, False]


def test_steps_that_fill_the_pipeline_are_not_timed():
    assert all(run_steps([50, 8, 8, 8, 8, 8, 8, 8, 8], 140, skipped=1))
    assert not all(run_steps([50, 8, 8, 8], 140))


def test_a_little_late_is_no_hurry_until_the_first_alone_is_at_risk():
    """11 s a step and 108 in all: two seconds late. Alone the first takes 5, so all go on until
    three steps no longer fit.
    """
    allowed = run_steps([11] * 9, 108, followers=6)
    assert allowed.index(False) == 6


def test_a_step_is_allowed_when_one_like_it_ends_in_time():
    clock = Clock(30.0)
    scheduler = DeadlineScheduler(10, clock)
    clock.seconds_left -= 12
    scheduler.step("all")
    assert scheduler.allows("all")
    assert scheduler.allows("new")
    clock.seconds_left = 12.0
    assert not scheduler.allows("all")
    assert not scheduler.allows("new")

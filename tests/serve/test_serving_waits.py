"""Serving waits for a GPU once per batch, however many members and towers there are.

Fake CUDA tensors run the networks up to the one copy of the results. What else would wait is
counted on the CPU.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys
from fake_cuda import batch_on_fake_cuda, fake_cuda, model_on_fake_cuda
from sync_counter import SyncCounter
from torch._subclasses.fake_tensor import DataDependentOutputException

from wbdc.competitions import Source, Video
from wbdc.core.batch import Batch
from wbdc.nets.model import VideoClassifier
from wbdc.serve import predict, scoring_run
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.members import Member, ValueBatch
from wbdc.serve.predict import predict_probabilities
from wbdc.serve.scheduler import DeadlineScheduler, no_deadline
from wbdc.serve.scoring_run import ScoringRun
from wbdc.serve.stage_timer import StageTimer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# what may wait, and why it does not wait for a GPU while a batch is computed
ALLOWED = {
    "nets/vision/__init__.py real_frames": "reads a mask on the CPU; on a GPU it uses the counts",
    "nets/vision/__init__.py _check_counts": "reads a mask on the CPU only",
    "serve/scoring_run.py _cache_features": "reads features after their copy to the CPU, under a"
    " deadline that is at risk",
}
TOWERS = ("shared", "two")


def engine_of(tmp_path, towers: str, precision=torch.float32) -> InferenceEngine:
    """An engine of two members, which share a tower or not."""
    first = toys.model()
    second = toys.model("cross_attention", seed=1)
    if towers == "shared":
        second.vision.load_state_dict(first.vision.state_dict())
    folders = [
        toys.member(tmp_path / "0", first),
        toys.member(tmp_path / "1", second, "cross_attention"),
    ]
    engine = InferenceEngine(folders, [1.0, 1.0], CPU, precision, 1)
    assert len(set(engine.towers)) == (1 if towers == "shared" else 2)
    return engine


def on_fake_cuda(engine: InferenceEngine, batch: Batch) -> dict[int, Batch]:
    """Move the networks of an engine and a batch, which is returned for each of two members."""
    engine.device = CUDA
    model_on_fake_cuda(torch.nn.ModuleList([member.model for member in engine.members]))
    return dict.fromkeys((0, 1), batch_on_fake_cuda(batch))


class ListedEvent:
    """In place of a CUDA event: one that happens as soon as the results were copied."""

    def __init__(self, log: list[str], enable_timing: bool):
        assert enable_timing
        self.log = log

    def record(self, stream):
        assert stream == "stream of cuda"
        self.log.append("event")

    def elapsed_time(self, end):
        assert "wait" in self.log, "reading an event before the copy waits for the GPU"
        return 500.0


class ListedCopy:
    """In place of a copy from a GPU: numbers that are not those of the GPU."""

    def __init__(self, log: list[str], tensor: torch.Tensor):
        assert tensor.device.type == "cuda"
        log.append("copy")
        self.log = log
        self.shape = tensor.shape

    def wait(self):
        self.log.append("wait")
        return SimpleNamespace(numpy=lambda: np.ones(self.shape, np.float32))


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """Events, launched fusions, copies and waits for them in their order."""
    log = []
    fuse = VideoClassifier.fuse
    monkeypatch.setattr(torch.cuda, "Event", lambda **options: ListedEvent(log, **options))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("waits"))
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda t: t if t.device.type == "cpu" else pytest.fail("waits")
    )
    monkeypatch.setattr(predict, "HostCopy", lambda tensor: ListedCopy(log, tensor))
    monkeypatch.setattr(predict, "BatchCopier", lambda device: SimpleNamespace(copy=lambda b: b))
    monkeypatch.setattr(VideoClassifier, "fuse", lambda *a: log.append("fuse") or fuse(*a))
    return log


@pytest.mark.parametrize("precision", [torch.float16, torch.float32])
@pytest.mark.parametrize("towers", TOWERS)
def test_a_batch_of_two_members_is_copied_once_after_all_launches(tmp_path, log, towers, precision):
    engine = engine_of(tmp_path, towers, precision)
    batch = toys.batch()
    stages = StageTimer()
    features = {}
    with fake_cuda():
        scores = engine.compute(on_fake_cuda(engine, batch), stages, features)

    encodings = len(set(engine.towers))
    fusion = ["event", "fuse", "event"]
    assert log == [*["event", "event"] * encodings, *fusion * 2, "copy", "wait"]
    assert stages.seconds == {"vision": 0.5 * encodings, "fuse": 1.0}
    assert stages.member_seconds == {0: 1.0, 1: 0.5 * encodings}
    assert {tensor.device.type for tensor in features.values()} == {"cuda"}
    assert [scores[i].shape for i in range(2)] == [(len(batch), toys.CLASSES)] * 2


def test_a_linear_member_computes_after_the_launches_and_before_the_copy(tmp_path, log):
    """While the GPU computes, the CPU is not idle; its result joins the one copy."""
    engine = engine_of(tmp_path, "shared")
    ids = toys.batch().ids

    class Linear(Member):
        def __init__(self):
            self.tower_key = None

        def logits(self, batch, features):
            log.append("linear")
            return torch.zeros(len(batch), toys.CLASSES)

    engine.members.append(Linear())
    engine.towers.append(None)
    stages = StageTimer()
    with fake_cuda():
        networks = SimpleNamespace(members=engine.members[:2])
        engine.device = CUDA
        batches = {2: ValueBatch(ids, (None,) * len(ids)), **on_fake_cuda(networks, toys.batch())}
        scores = engine.compute(batches, stages, {})
    assert [entry for entry in log if entry != "event"] == [
        "fuse",
        "fuse",
        "linear",
        "copy",
        "wait",
    ]
    assert scores[2].shape == (len(ids), toys.CLASSES)
    assert 0 < stages.seconds["linear"] < 0.4, "timed by the clock of the CPU"


def test_the_evaluation_of_training_waits_after_the_next_launch(log):
    model, batches = toys.model(), [toys.batch(seed=seed) for seed in range(3)]
    with fake_cuda():
        model_on_fake_cuda(model)
        batches = [batch_on_fake_cuda(batch) for batch in batches]
        predict_probabilities(model, batches, CUDA, torch.float16)
    launch = ["fuse", "copy"]
    assert log == [*launch, *launch, "wait", *launch, "wait", "wait"]


@pytest.mark.parametrize("is_time_short", [False, True])
def test_a_group_is_launched_before_the_results_of_the_last_are_read(
    tmp_path, log, monkeypatch, is_time_short
):
    """Also features that are cached under a deadline are copied before anything waits."""
    engine = engine_of(tmp_path, "two")
    engine.copier = SimpleNamespace(copy=lambda batch: batch)
    groups = {number: np.arange(len(toys.batch())) for number in range(3)}
    run = ScoringRun(engine, [], groups, lambda done, total: log.append(f"{done}"), no_deadline)
    run.scheduler.is_time_short = is_time_short
    monkeypatch.setattr(scoring_run, "HostCopy", lambda tensor: ListedCopy(log, tensor))
    monkeypatch.setattr(run, "_cache_features", lambda *_: None)
    with fake_cuda():
        on_fake = on_fake_cuda(engine, toys.batch())
        for number in groups:
            run._score_group("all", number, [0, 1], on_fake, videos=6)
        run.collect_launched()

    launch = ["fuse", "fuse", "copy", *["copy", "copy"] * is_time_short]
    wait = ["wait", *["wait", "wait"] * is_time_short]
    expected = [*launch, *launch, *wait, "6", *launch, *wait, "12", *wait, "18"]
    assert [entry for entry in log if entry != "event"] == expected


@pytest.mark.parametrize("is_time_short", [False, True])
def test_no_other_operation_of_a_prediction_waits(tmp_path, monkeypatch, is_time_short):
    """Also when the members follow one by one, from cached features."""

    def allows_all(scheduler):
        scheduler.is_time_short = is_time_short
        return not is_time_short

    monkeypatch.setattr(DeadlineScheduler, "allows_all", allows_all)
    engine = engine_of(tmp_path, "two")
    source = Source(tmp_path / "nowhere.zip")
    videos = [Video(f"v{i}", {"title": "标题" * i, "asr": ""}, None, source) for i in range(3)]
    with SyncCounter() as counter:
        predictions = engine.predict(videos, seconds_left=lambda: 1e6)
    assert predictions.dropped_members == []
    assert set(counter.places) <= set(ALLOWED)
    assert ("serve/scoring_run.py _cache_features" in counter.places) == is_time_short


@pytest.mark.parametrize("towers", TOWERS)
def test_no_other_operation_of_a_batch_waits(tmp_path, towers):
    engine = engine_of(tmp_path, towers)
    with SyncCounter() as counter:
        engine.compute(dict.fromkeys((0, 1), toys.batch()), StageTimer(), {})
    assert set(counter.places) <= set(ALLOWED)

    with SyncCounter() as counter:
        predict_probabilities(engine.members[0].model, [toys.batch()], CPU, torch.float32)
    assert set(counter.places) <= set(ALLOWED)


def test_a_network_that_waits_is_noticed(tmp_path, monkeypatch, log):
    engine = engine_of(tmp_path, "two")
    fuse = VideoClassifier.fuse

    def fuse_and_wait(self, batch):
        fused = fuse(self, batch)
        return fused if fused.pooled.isfinite().all() else None

    monkeypatch.setattr(VideoClassifier, "fuse", fuse_and_wait)
    with fake_cuda():
        batches = on_fake_cuda(engine, toys.batch())
        with pytest.raises(DataDependentOutputException):
            engine.compute(batches, StageTimer(), {})
    assert "copy" not in log


@pytest.mark.parametrize("towers", TOWERS)
def test_fault_25_only_the_member_that_overflows_is_computed_again(tmp_path, monkeypatch, towers):
    """Its FP32 numbers are those of an FP32 engine; the other member keeps its own, bit for bit."""
    half = engine_of(tmp_path, towers, torch.float16)
    full = InferenceEngine([tmp_path / "0", tmp_path / "1"], [1.0, 1.0], CPU, torch.float32, 1)
    batches = dict.fromkeys((0, 1), toys.batch())
    expected = half.compute({0: batches[0]}, StageTimer(), {})
    for engine in (half, full):
        engine.members[1].model.head.weight.data.mul_(1e6)
    expected |= full.compute({1: batches[1]}, StageTimer(), {})

    launched = []
    models = [member.model for member in half.members]
    fuse = VideoClassifier.fuse
    monkeypatch.setattr(
        VideoClassifier, "fuse", lambda *a: launched.append(models.index(a[0])) or fuse(*a)
    )
    scores = half.compute(batches, StageTimer(), {})
    assert launched == [0, 1, 1]
    for i in range(2):
        assert scores[i].tobytes() == expected[i].tobytes()


def test_followers_take_the_seconds_after_the_first(tmp_path):
    """The scheduler learns what the first member would take alone from the times of networks."""
    engine = engine_of(tmp_path, "two")
    stages = StageTimer()
    engine.compute(dict.fromkeys((0, 1), toys.batch()), stages, {})
    assert set(stages.member_seconds) == {0, 1}
    assert min(stages.member_seconds.values()) > 0
    assert sum(stages.member_seconds.values()) == pytest.approx(
        stages.seconds["vision"] + stages.seconds["fuse"]
    )


def test_an_out_of_memory_error_of_the_second_member_splits_the_batch(tmp_path, monkeypatch):
    """A part that fails adds no seconds and no features."""
    engine = engine_of(tmp_path, "two")
    batches = dict.fromkeys((0, 1), toys.batch())
    whole = engine.compute(batches, StageTimer(), {})
    second = engine.members[1].model
    fuse = VideoClassifier.fuse

    def fuse_or_fail(self, batch):
        if self is second and len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fuse(self, batch)

    monkeypatch.setattr(VideoClassifier, "fuse", fuse_or_fail)
    features = {}
    scores = engine.compute(batches, StageTimer(), features)
    assert engine.parts.count == 2
    assert {len(tensor) for tensor in features.values()} == {len(batches[0])}
    for i in range(2):
        np.testing.assert_allclose(scores[i], whole[i], rtol=1e-4, atol=1e-6)

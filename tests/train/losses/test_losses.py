"""Losses: longhand references, soft labels, chance levels, and videos without a label."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys
from fake_cuda import fake_cuda

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import losses, objectives
from wbdc.train.losses import Loss, build_loss

LOSSES: dict[str, list[dict]] = {"cross_entropy": [{}, {"smoothing": 0.1}]}
EVERY_LOSS = [
    {"use": use, **settings}
    for use in plug.plug_names(losses)
    for settings in LOSSES.get(use, [{}])
]
every_loss = pytest.mark.parametrize("table", EVERY_LOSS, ids=str)
LABELS = torch.tensor([0, 3, 4, 1])


def logits(rows: int = 4) -> torch.Tensor:
    return 3 * torch.randn(rows, toys.CLASSES, generator=torch.Generator().manual_seed(0))


def build(table: dict | str) -> Loss:
    loss = build_loss(table, toys.TASK)
    loss.before_step(toys.TASK.total_steps)
    return loss


def longhand(table: dict, row: list[float], label: int) -> float:
    """Return the loss of one video, written out with the standard library."""
    return REFERENCES[table["use"]](row, label, **{k: v for k, v in table.items() if k != "use"})


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(map(math.exp, row)))
    return [value - total for value in row]


def cross_entropy(row, label, smoothing=0.0):
    scores = log_softmax(row)
    return -(1 - smoothing) * scores[label] - smoothing * sum(scores) / len(scores)


REFERENCES = {"cross_entropy": cross_entropy}


@every_loss
def test_a_loss_is_its_formula_written_out(table):
    expected = [
        longhand(table, x, y) for x, y in zip(logits().tolist(), LABELS.tolist(), strict=True)
    ]
    torch.testing.assert_close(build(table)(logits(), LABELS), torch.tensor(expected))


@every_loss
def test_soft_labels_give_the_expected_loss(table):
    """Also those of one class give the loss of this class."""
    loss = build(table)
    one_hot = torch.eye(toys.CLASSES)
    torch.testing.assert_close(loss(logits(), one_hot[LABELS]), loss(logits(), LABELS))
    if table["use"] == "soft_targets":  # it softens the probabilities
        return
    mixed = 0.3 * one_hot[LABELS] + 0.7 * one_hot[LABELS.flip(0)]
    expected = 0.3 * loss(logits(), LABELS) + 0.7 * loss(logits(), LABELS.flip(0))
    torch.testing.assert_close(loss(logits(), mixed), expected)


@every_loss
def test_the_chance_level_is_the_loss_of_equal_logits_on_the_training_videos(table):
    counts = toys.TASK.class_counts
    labels = torch.arange(toys.CLASSES).repeat_interleave(torch.tensor(counts))
    loss = build(table)
    equal = torch.zeros(len(labels), toys.CLASSES)
    assert loss.chance == pytest.approx(loss(equal, labels).mean().item(), rel=1e-5)
    assert loss.chance > loss.floor >= 0


@every_loss
def test_no_loss_is_below_its_floor_and_gradients_are_finite(table):
    loss = build(table)
    scores = torch.cat([logits(), 1000 * torch.eye(toys.CLASSES)[[0, 3, 1, 1]]]).requires_grad_()
    labels = torch.cat([LABELS, LABELS])
    values = loss(scores, labels)
    values.sum().backward()
    assert (values >= loss.floor - 1e-5).all()
    assert scores.grad.isfinite().all()
    assert scores.grad[:4].abs().sum(1).all()


@every_loss
@pytest.mark.parametrize("is_soft", [False, True])
def test_a_loss_does_not_wait_for_the_gpu(table, is_soft):
    loss = build(table)
    labels = torch.eye(toys.CLASSES)[LABELS] if is_soft else LABELS
    scores = logits()
    with fake_cuda():
        loss.to("cuda")
        with torch.autocast("cuda", torch.float16):
            values = loss(scores.to("cuda"), labels.to("cuda"))
    assert (values.device.type, values.dtype, values.shape) == ("cuda", torch.float32, (4,))


@every_loss
def test_videos_without_a_label_count_for_nothing(table):
    """The average of a batch is that of its labeled videos. A soft label replaces the label, and
    its sum is the weight of the video."""
    model = toys.model()
    objective = plug.build_plug(objectives, {"use": "classify", "loss": table}, model, toys.TASK)
    objective.before_step(toys.TASK.total_steps)
    batch = model.encode(toys.batch())
    partly = replace(batch, label=torch.tensor([-1, 2, -1, 0, -1, 4]))
    soft = torch.zeros(6, toys.CLASSES)
    soft[0] = torch.tensor([0.5, 0.0, 0.25, 0.0, 0.25])
    softly = replace(partly, soft_label=0.5 * soft)

    def mean_loss(b):
        return objective.loss(model, model.fuse(b), b, b)

    values = objective.class_loss(model.logits(batch).detach(), partly.label.clamp(min=0))
    soft_values = objective.class_loss(model.logits(batch).detach(), soft)
    torch.testing.assert_close(mean_loss(partly), values[[1, 3, 5]].mean())
    expected = torch.cat([0.5 * soft_values[:1], values[[1, 3, 5]]]).mean()
    torch.testing.assert_close(mean_loss(softly), expected)
    assert (objective.count(partly), objective.count(softly)) == (3, 4)
    nothing = replace(batch, label=torch.full((6,), -1))
    assert mean_loss(nothing) == 0


class HardOnly(Loss):
    takes_soft_labels = False

    def forward(self, logits, target):
        return F.cross_entropy(logits, target, reduction="none")


def test_a_loss_that_takes_hard_labels_only_refuses_soft_ones():
    model = toys.model()
    objective = plug.build_plug(objectives, {"use": "classify"}, model, toys.TASK)
    objective.class_loss = HardOnly(toys.TASK)
    batch = model.encode(toys.batch())
    objective.loss(model, model.fuse(batch), batch, batch)
    softly = replace(batch, soft_label=torch.full((6, toys.CLASSES), 0.2))
    with pytest.raises(UsageFault, match="takes hard labels only, and these videos have soft"):
        objective.loss(model, model.fuse(batch), softly, softly)


@pytest.mark.parametrize(
    ("table", "message"),
    [({"use": "cross_entropy", "smoothing": 2.0}, "smoothing = 2; it must be between 0 and 1")],
)
def test_a_setting_out_of_bounds_names_the_loss(table, message):
    with pytest.raises(UsageFault, match=f"loss '{table['use']}': {message}"):
        build(table)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_those_of_the_cross_entropy_of_torch_bit_for_bit(smoothing):
    model = toys.model()
    table = {"use": "cross_entropy", "smoothing": smoothing}
    objective = plug.build_plug(objectives, {"use": "classify", "loss": table}, model, toys.TASK)
    with torch.no_grad():
        batch = replace(model.encode(toys.batch()), label=torch.tensor([3, -1, 2, 0, 1, 4]))
    objective.loss(model, model.fuse(batch), batch, batch).backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    total = F.cross_entropy(
        model.logits(batch).float(),
        batch.label,
        label_smoothing=smoothing,
        ignore_index=-1,
        reduction="sum",
    )
    (total / 5).backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))

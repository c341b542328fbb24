"""Losses: longhand references, soft labels, chance levels, and videos without a label."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys
from fake_cuda import batch_on_fake_cuda, fake_cuda

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import losses, objectives
from wbdc.train.losses import Loss, build_loss
from wbdc.train.objective_parts.class_loss import mean_class_loss

SMOOTH = {"use": "cross_entropy", "smoothing": 0.1}
# settings of each loss that is tested with several
LOSSES: dict[str, list[dict]] = {
    "cross_entropy": [{}, {"smoothing": 0.1}],
    "focal": [{}, {"gamma": 0.5}, {"gamma": 0.0}],
    "class_balanced": [{}, {"beta": 1.0, "loss": SMOOTH}, {"start": 0.8, "loss": "ldam"}],
    "logit_adjustment": [{}, {"tau": 0.5, "loss": SMOOTH}],
    "ldam": [{}, {"margin": 15.0}],
    "two_level": [{}, {"share": 0.2, "loss": SMOOTH}],
    "distillation": [{}, {"temperature": 0.5}],
}
EVERY_LOSS = [
    {"use": use, **settings}
    for use in plug.plug_names(losses)
    for settings in LOSSES.get(use, [{}])
]
every_loss = pytest.mark.parametrize("table", EVERY_LOSS, ids=str)
LABELS = torch.tensor([0, 2, 4, 3])  # the second and the last have the largest logit


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


def focal(row, label, gamma=2.0):
    score = log_softmax(row)[label]
    return -((1 - math.exp(score)) ** gamma) * score


def inner(row, label, loss):
    return longhand({"use": loss} if isinstance(loss, str) else loss, row, label)


def class_balanced(row, label, beta=0.999, start=0.0, loss="cross_entropy"):
    effective = [n if beta == 1 else (1 - beta**n) / (1 - beta) for n in COUNTS]
    mean = sum(n / e for n, e in zip(COUNTS, effective, strict=True)) / sum(COUNTS)
    return inner(row, label, loss) / effective[label] / mean


def logit_adjustment(row, label, tau=1.0, loss="cross_entropy"):
    total = sum(COUNTS)
    adjusted = [x + tau * math.log(n / total) for x, n in zip(row, COUNTS, strict=True)]
    return inner(adjusted, label, loss)


def ldam(row, label, margin=0.5):
    margins = [margin * (min(COUNTS) / n) ** 0.25 for n in COUNTS]
    moved = [x - margins[c] * (c == label) for c, x in enumerate(row)]
    return cross_entropy(moved, label)


def two_level(row, label, share=0.5, loss="cross_entropy"):
    parents = toys.TASK.parents
    siblings = [c for c, parent in enumerate(parents) if parent == parents[label]]
    probability = sum(math.exp(log_softmax(row)[c]) for c in siblings)
    return (1 - share) * inner(row, label, loss) - share * math.log(probability)


def distillation(row, label, temperature=2.0):
    return temperature**2 * cross_entropy([x / temperature for x in row], label)


COUNTS = toys.TASK.class_counts
REFERENCES = {
    f.__name__: f
    for f in (
        cross_entropy,
        focal,
        class_balanced,
        logit_adjustment,
        ldam,
        two_level,
        distillation,
    )
}


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
    if table["use"] == "distillation":  # it softens the probabilities
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
    [
        ({"use": "cross_entropy", "smoothing": 2.0}, "smoothing = 2; it must be between 0 and 1"),
        ({"use": "focal", "gamma": -1.0}, "gamma = -1; it must be at least 0"),
        ({"use": "class_balanced", "beta": 1.5}, "beta = 1.5; it must be between 0 and 1"),
        ({"use": "class_balanced", "start": -1}, "start = -1; it must be between 0 and 1"),
        ({"use": "logit_adjustment", "tau": -1}, "tau = -1; it must be at least 0"),
        ({"use": "ldam", "margin": -1}, "margin = -1; it must be at least 0"),
        ({"use": "two_level", "share": 1.5}, "share = 1.5; it must be between 0 and 1"),
        ({"use": "distillation", "temperature": 0.0}, "temperature = 0; it must be above 0"),
    ],
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


def test_the_two_level_loss_refuses_classes_without_groups():
    with pytest.raises(UsageFault, match="two_level' needs classes in groups, and the classes of"):
        build_loss("two_level", replace(toys.TASK, parents=()))


def test_deferred_weights_begin_after_their_share_of_the_steps():
    plain = build("cross_entropy")(logits(), LABELS)
    weighted = build("class_balanced")(logits(), LABELS)
    table = {"use": "class_balanced", "start": 0.8}
    deferred = build_loss(table, toys.TASK)
    inside = build_loss({"use": "two_level", "share": 0.0, "loss": table}, toys.TASK)
    for step, expected in ((1, plain), (8, plain), (9, weighted), (10, weighted)):
        deferred.before_step(step)
        inside.before_step(step)
        torch.testing.assert_close(deferred(logits(), LABELS), expected)
        torch.testing.assert_close(inside(logits(), LABELS), expected)


def test_weights_of_classes_have_a_mean_of_1_over_the_training_videos():
    weights = build("class_balanced").weights
    assert (weights * torch.tensor(COUNTS)).sum() / sum(COUNTS) == pytest.approx(1.0)
    assert weights.diff().min() > 0, "rarer classes weigh more"


def test_soft_labels_are_softened_as_those_of_a_teacher():
    """The objective pseudo_labels computes the same from a file."""
    soft = torch.tensor([[0.7, 0.1, 0.1, 0.05, 0.05]]).repeat(4, 1)
    powers = [p**0.5 for p in soft[0].tolist()]
    target = [power / sum(powers) for power in powers]
    expected = [
        4 * -sum(t * s for t, s in zip(target, log_softmax([x / 2 for x in row]), strict=True))
        for row in logits().tolist()
    ]
    values = build({"use": "distillation", "temperature": 2.0})(logits(), soft)
    torch.testing.assert_close(values, torch.tensor(expected))


def test_the_margin_loss_keeps_its_digits_for_a_class_with_nearly_the_whole_probability():
    """1 - p is 0 in float32; with margins of 15, the loss is still far from 0."""
    table = {"use": "ldam", "margin": 15.0}
    row = [0.0, 0.0, 0.0, 0.0, 20.0]
    value = build(table)(torch.tensor([row]), torch.tensor([4]))
    assert value.item() == pytest.approx(longhand(table, row, 4), rel=1e-5)


def test_averaging_over_soft_labels_does_not_wait_for_the_gpu():
    loss = build("class_balanced")
    batch = replace(toys.batch(), soft_label=torch.full((6, toys.CLASSES), 0.2))
    with fake_cuda():
        loss.to("cuda")
        moved = batch_on_fake_cuda(batch)
        value = mean_class_loss(loss, logits(6).to("cuda"), moved, moved.is_labeled())
    assert (value.device.type, value.shape) == ("cuda", ())

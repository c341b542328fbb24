"""contrast: text and frames of a batch, of a momentum encoder and of its queue."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys
from objective_programs import build_objective, loss_of, own_weights
from torch import nn

from wbdc.core.errors import UsageFault
from wbdc.train.fit import fit
from wbdc.train.optimizer import build_adamw, parameter_groups
from wbdc.train.state import TrainingState, gather_state, restore_state, save_state
from wbdc.train.tricks.fgm import FGM

PAIRS = torch.tensor([0, 2, 3, 5])  # videos of toys.batch() with words and frames
SCALE = math.log(6) / math.log(4)  # to the chance level of a whole batch
MOMENTUM = {"queue": 6, "distill": 0.4, "momentum": 0.9, "dim": 8}


def build(model, videos: int = 12, **settings):
    task = replace(toys.TASK, ids=tuple(f"v{i}" for i in range(videos)))
    return build_objective("contrast", model, task, **{"dim": 8, **settings})


def projections(objective, model, batch):
    """Return the normalized vectors of the pairs, in float32."""
    batch = model.encode(batch)
    text, frames = model.unimodal(batch, model.fuse(batch))
    x = objective.text(text.mean())[PAIRS]
    y = objective.frames(frames.mean())[PAIRS]
    return F.normalize(x, dim=1), F.normalize(y, dim=1)


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_the_loss_is_the_cross_entropy_of_clip(fusion):
    model = toys.model(fusion)
    objective = build(model)
    x, y = projections(objective, model, toys.batch())
    scores = x @ y.T / 0.07
    truth = torch.arange(len(PAIRS))
    expected = (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2
    torch.testing.assert_close(loss_of(objective, model, toys.batch()), SCALE * expected)
    assert objective.count(toys.batch()) == len(PAIRS)
    assert objective.chance == math.log(toys.TASK.batch_size)


def test_the_loss_with_momentum_is_that_of_albef():
    """The lines of its forward, with its names; a step before has filled a part of the queue."""
    model = toys.model()
    objective = build(model, **MOMENTUM, ramp=0.0)
    loss_of(objective, model, toys.batch(seed=3))
    objective.after_step(1)
    with torch.no_grad():
        for weight in [*model.parameters(), *own_weights(objective)]:
            weight.add_(0.1 * torch.randn_like(weight))
    objective.before_step(2)

    text_feat, image_feat = projections(objective, model, toys.batch())
    encoded = model.encode(toys.batch())
    keys = objective.encoder(encoded, model.fuse(encoded))
    text_feat_m, image_feat_m = (F.normalize(key[PAIRS], dim=1) for key in keys)
    queue = objective.queue
    temp = objective.temperature()
    assert queue.is_filled.sum() == len(PAIRS)
    text_feat_all = torch.cat([text_feat_m, F.normalize(queue.text[queue.is_filled], dim=1)]).T
    image_feat_all = torch.cat([image_feat_m, F.normalize(queue.frames[queue.is_filled], dim=1)]).T
    sim_targets = torch.zeros(len(PAIRS), text_feat_all.shape[1])
    sim_targets.fill_diagonal_(1)
    alpha = 0.4
    sim_i2t_targets = alpha * F.softmax(image_feat_m @ text_feat_all / temp, dim=1)
    sim_i2t_targets = sim_i2t_targets + (1 - alpha) * sim_targets
    sim_t2i_targets = alpha * F.softmax(text_feat_m @ image_feat_all / temp, dim=1)
    sim_t2i_targets = sim_t2i_targets + (1 - alpha) * sim_targets
    sim_i2t = image_feat @ text_feat_all / temp
    sim_t2i = text_feat @ image_feat_all / temp
    loss_i2t = -torch.sum(F.log_softmax(sim_i2t, dim=1) * sim_i2t_targets, dim=1).mean()
    loss_t2i = -torch.sum(F.log_softmax(sim_t2i, dim=1) * sim_t2i_targets, dim=1).mean()
    expected = (loss_i2t + loss_t2i) / 2

    scale = math.log(6 + 6) / math.log(8)  # four keys of the batch and four of the queue
    torch.testing.assert_close(loss_of(objective, model, toys.batch()), scale * expected)
    assert objective.chance == math.log(toys.TASK.batch_size + 6)


@pytest.mark.parametrize("settings", [{}, MOMENTUM], ids=["batch", "momentum"])
def test_videos_without_words_or_frames_change_nothing(settings):
    model, batch = toys.model(), toys.batch()
    text = batch.text.clone()
    text[1, 1:4] = 7  # this video has no frames
    frames = batch.frames.clone()
    frames[4] = 255 - frames[4]  # and this one has no words
    losses = []
    for changed in (batch, replace(batch, text=text, frames=frames)):
        objective = build(model, **settings)
        objective.before_step(1)
        losses.append(loss_of(objective, model, changed))
    torch.testing.assert_close(*losses)


def test_the_shared_pass_may_be_masked_and_an_own_pass_is_not():
    model, batch = toys.model(), toys.batch()
    clean = loss_of(build(model), model, batch)
    original = model.encode(batch)
    masked = replace(original, text=torch.where(original.text_field > 0, 4, original.text))
    losses = [
        build(model, share_pass=share).loss(model, model.fuse(masked), masked, original)
        for share in (True, False)
    ]
    assert abs(losses[0] - clean) > 1e-3
    torch.testing.assert_close(losses[1], clean)


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_queue_and_encoder_move_once_a_step(fusion):
    """With two batches a step, and an adversarial pass over both."""
    model = toys.model(fusion)
    objective = build(model, videos=70, **MOMENTUM | {"queue": 64})
    start = copy.deepcopy(objective.encoder.state_dict())
    moves = []
    move = objective.encoder.move
    objective.encoder.move = lambda momentum: moves.append(momentum) or move(momentum)
    optimizer = torch.optim.SGD([*model.parameters(), *own_weights(objective)], 0.5)
    batches = [toys.batch(seed=seed) for seed in range(1, 5)]
    # a key depends on its step alone, so distinct batches need distinct ids
    batches = [replace(b, ids=tuple(f"{n}{i}" for i in b.ids)) for n, b in enumerate(batches)]
    fit(model, [objective], batches, optimizer, [FGM(model, toys.TASK)], accumulate=2)
    assert moves == [0.9, 0.9]
    assert objective.queue.is_filled.sum() == 4 * len(PAIRS)
    weights = objective.encoder.state_dict()
    assert any(not torch.equal(weights[name], start[name]) for name in start)


def test_the_share_of_the_teacher_grows():
    objective = build(toys.model(), distill=0.4, ramp=0.5)
    shares = []
    for step in range(1, toys.TASK.total_steps + 1):
        objective.before_step(step)
        shares.append(objective._teacher_share)
    assert shares == pytest.approx([0.08, 0.16, 0.24, 0.32, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4])


def test_the_temperature_stays_in_its_bounds():
    model = toys.model()
    objective = build(model, temperature=0.5)
    optimizer = torch.optim.SGD(objective.temperature.parameters(), 1e4)
    for seed in range(3):
        fit(model, [objective], [toys.batch(seed=seed)], optimizer, max_grad_norm=1e9)
        assert 0.0099 < objective.temperature().item() < 0.501


def build_training() -> TrainingState:
    model = toys.model("single_stream")
    modules = nn.ModuleList([build(model, **MOMENTUM)])
    weights = parameter_groups(model, modules, {"rest": 1e-2})
    optimizer = build_adamw(weights, {"rest": 1e-2}, 0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, modules, optimizer, [], scaler)


def train(training: TrainingState, start: int, end: int) -> None:
    batches = [toys.batch(seed=seed) for seed in range(start, end)]
    fit(training.model, training.objectives, batches, training.optimizer, start=start)


def test_a_resumed_training_has_the_same_bits(tmp_path):
    """Momentum encoder, queue and temperature are state; a step of the ramp is a function of its
    number.
    """
    whole = build_training()
    train(whole, 0, 4)

    first = build_training()
    train(first, 0, 2)
    save_state(tmp_path, 2, gather_state(first))
    second = build_training()
    assert restore_state(tmp_path, second)[0] == 2
    train(second, 2, 4)
    for one, other in zip(whole[:2], second[:2], strict=True):
        expected = one.state_dict()
        for name, tensor in other.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
    assert whole.objectives[0].queue.is_filled.all()


def test_the_momentum_encoder_is_neither_trained_nor_exported():
    model = toys.model()
    names = set(model.state_dict())
    objective = build(model, **MOMENTUM)
    groups = parameter_groups(model, nn.ModuleList([objective]), {"rest": 1e-3})
    trained = [name for name, _ in groups["rest"] if name.startswith("objective")]
    assert sorted({name.split(".")[2] for name in trained}) == ["frames", "temperature", "text"]
    assert set(model.state_dict()) == names
    loss_of(objective, model, toys.batch()).backward()
    assert all(p.grad is None for p in objective.encoder.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue": 4096}, "queue = 4096 and a batch of 6 exceed the 12 training videos"),
        ({"queue": -1}, "queue = -1; it must be at least 0"),
        ({"momentum": 1.5}, "momentum = 1.5; it must be between 0 and 1"),
        ({"distill": -0.1}, "distill = -0.1; it must be between 0 and 1"),
        ({"temperature": 0.0}, "'contrast': temperature = 0; it must be between"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UsageFault, match=message):
        build(toys.model(), **settings)

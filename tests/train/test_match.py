"""match: whose frames a video gets, which pairs still match, and hard negatives."""

import math
from dataclasses import replace

import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.item_random import item_seeds
from wbdc.train import objectives
from wbdc.train.objectives.match import hard_sources, random_sources, take_frames, takeable

SHOWN = (3, 0, 4, 1, 2, 4)
ROWS = torch.arange(6)


def build(model, **settings):
    torch.manual_seed(1)
    return plug.build_plug(objectives, {"use": "match", **settings}, model, toys.TASK)


def mix(objective, model, batch: Batch):
    original = model.encode(batch)
    return objective._mix(model, model.fuse(original), original)


def owner(mixed: Batch, row: int, batch: Batch) -> int:
    """Return the video whose frames and mask a row has."""
    same = [
        i
        for i in range(len(batch))
        if torch.equal(mixed.frames[row], batch.frames[i])
        and torch.equal(mixed.frame_mask[row], batch.frame_mask[i])
    ]
    assert len(same) == 1
    return same[0]


def bare(has_words: list[int], has_frames: list[int]) -> Batch:
    """A batch of which some videos have no words or no frames."""
    batch = toys.batch(tuple(3 * n for n in has_frames))
    field = torch.tensor(has_words).byte()[:, None] * batch.text_mask
    return replace(batch, text_field=field.to(torch.int8))


@pytest.mark.parametrize("swapped", [[0, 1, 2, 3, 4, 5], [0, 2, 5], [1, 3], [4], []])
def test_trap_07_swapped_frames_keep_their_masks(swapped):
    model, batch = toys.model(), toys.batch(SHOWN)
    batch = model.encode(batch)
    chosen = torch.tensor([i in swapped for i in range(6)])
    mixed = take_frames(model, batch, random_sources(chosen))
    owners = [owner(mixed, row, batch) for row in range(6)]
    assert sorted(owners) == list(range(6)), "each video's frames appear once"
    assert torch.equal(mixed.text, batch.text)
    assert torch.equal(mixed.text_mask, batch.text_mask)
    moved = [row for row in range(6) if owners[row] != row]
    assert moved == (swapped if len(swapped) > 1 else []), "no swapped video keeps its own frames"


@pytest.mark.parametrize("negatives", ["random", "hard"])
@pytest.mark.parametrize("swap", [0.0, 0.5, 1.0])
def test_trap_07_labels_follow_what_changed(negatives, swap):
    model, batch = toys.model(), toys.batch(SHOWN)
    mixed, is_match = mix(build(model, swap=swap, negatives=negatives), model, batch)
    features = model.encode(batch)
    owners = [owner(mixed, row, features) for row in range(6)]
    assert is_match.tolist() == [owners[row] == row for row in range(6)]
    assert (swap == 0) == bool(is_match.all())


def test_two_videos_without_frames_or_without_words_still_match():
    model = toys.model()
    objective = build(model, swap=1.0)
    for words, frames in (([1, 1, 1], [0, 0, 1]), ([0, 0, 1], [1, 1, 1])):
        _, is_match = mix(objective, model, bare(words, frames))
        assert is_match.tolist() == [False, True, False], "the second one gets those of the first"
    _, is_match = mix(objective, model, bare([1, 1], [0, 0]))
    assert is_match.all()


def test_hard_negatives_are_other_videos_with_frames():
    words = torch.tensor([1, 0, 1, 0, 1, 1]).bool()
    frames = torch.tensor([1, 1, 0, 1, 1, 0]).bool()
    allowed = takeable(ROWS, words, frames)
    for i in range(6):
        for j in range(6):
            differs = i != j and frames[j] and (words[i] or words[j])
            assert allowed[i, j] == differs


def test_hard_negatives_are_drawn_by_similarity():
    """Measured shares against the softmax over the allowed videos."""
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(1, 6, generator=generator).expand(60000, 6)
    allowed = torch.tensor([[0, 1, 1, 0, 1, 1]]).bool().expand(60000, 6)
    draws = torch.rand(60000, generator=generator)
    sources = hard_sources(similarity, allowed, draws, torch.zeros(60000, dtype=torch.int64))
    shares = torch.bincount(sources, minlength=6) / 60000
    expected = similarity[0].masked_fill(~allowed[0], -math.inf).softmax(0)
    torch.testing.assert_close(shares, expected, atol=0.006, rtol=0)
    assert shares[[0, 3]].sum() == 0


def test_trap_07_a_hard_negative_is_never_ones_own_pair():
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        similarity = torch.randn(6, 6, generator=generator) * 5 + 50 * torch.eye(6)
        everything = torch.ones(6, dtype=torch.bool)
        allowed = takeable(ROWS, everything, everything)
        draws = torch.rand(6, generator=generator)
        draws[seed % 6] = 1 - 2**-24
        draws[(seed + 1) % 6] = 0.0
        assert (hard_sources(similarity, allowed, draws, ROWS) != ROWS).all()


def test_without_candidates_videos_keep_their_frames():
    sources = hard_sources(torch.zeros(2, 2), torch.zeros(2, 2).bool(), torch.ones(2), ROWS[:2])
    assert sources.tolist() == [0, 1]
    model = toys.model()
    _, is_match = mix(build(model, swap=1.0, negatives="hard"), model, toys.batch((2,)))
    assert is_match.all()


@pytest.mark.parametrize("negatives", ["random", "hard"])
def test_match_is_a_binary_cross_entropy_of_its_own_forward_pass(negatives):
    model, batch = toys.model(), toys.batch(SHOWN)
    objective = build(model, negatives=negatives)
    original = model.encode(batch)
    fused = model.fuse(original)
    loss = objective.loss(model, fused, original, original)
    mixed, is_match = objective._mix(model, fused, original)
    p = objective.head(model(mixed).pooled).squeeze(1).sigmoid()
    longhand = torch.where(is_match, -p.log(), -(1 - p).log()).mean()
    torch.testing.assert_close(loss, longhand)
    assert objective.chance == math.log(2)


def test_the_share_of_swapped_videos_is_the_setting():
    model = toys.model()
    objective = build(model, swap=0.3)
    batch = toys.batch((1,) * 25)
    swapped = [
        ~mix(objective, model, replace(batch, seeds=item_seeds(batch.ids, 0, epoch)))[1]
        for epoch in range(24)
    ]
    assert abs(torch.cat(swapped).float().mean() - 0.3) < 0.05


def test_other_negatives_are_refused():
    with pytest.raises(UsageFault, match="'match': no negatives called 'harder'; did you mean"):
        build(toys.model(), negatives="harder")


@pytest.mark.parametrize("swap", [0.2, 0.5, 0.9])
def test_the_chance_level_is_the_loss_of_the_best_constant_answer(swap):
    answers = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    losses = -(1 - swap) * answers.log() - swap * (1 - answers).log()
    chance = build(toys.model(), swap=swap).chance
    assert losses.min().item() == pytest.approx(chance, abs=1e-6)

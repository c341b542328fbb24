"""Encoding replaces the pixels of a batch by features; a forward pass continues from there."""

from dataclasses import replace

import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.nets import vision as visions
from wbdc.nets.vision import real_frames

pytestmark = pytest.mark.usefixtures("narrow_torchvision")
every_pair = pytest.mark.parametrize(("fusion", "vision"), toys.PAIRS)
every_vision = pytest.mark.parametrize("vision", plug.plug_names(visions))


@every_pair
def test_a_forward_pass_continues_from_features_with_the_same_bits(fusion, vision):
    model, batch = toys.shared_model(fusion, vision), toys.batch(vision=vision)
    encoded = model.encode(batch)
    assert encoded.frames.is_floating_point()
    fused = model(batch)
    assert torch.equal(model.logits(encoded), model.head(fused.pooled))
    assert torch.equal(fused.vision_features, encoded.frames)


@every_vision
def test_encoding_twice_changes_nothing(vision):
    model, batch = toys.shared_model(vision=vision), toys.batch(vision=vision)
    once = model.encode(batch)
    twice = model.encode(once)
    assert torch.equal(twice.frames, once.frames)
    assert torch.equal(twice.frame_mask, once.frame_mask)
    assert twice.frame_counts == once.frame_counts


@every_vision
def test_features_that_a_mask_hides_become_zeros(vision):
    model, batch = toys.shared_model(vision=vision), toys.batch(vision=vision)
    encoded = model.encode(batch)
    hidden = replace(
        encoded,
        frames=encoded.frames.index_fill(1, torch.tensor([0]), float("nan")),
        frame_mask=encoded.frame_mask.index_fill(1, torch.tensor([0]), False),
    )
    assert not model.encode(hidden).frames[:, 0].any()
    assert model.logits(hidden).isfinite().all()


@every_vision
def test_frame_counts_and_the_mask_give_the_same_features(vision, monkeypatch):
    """The positions that another device computes from frame_counts, tried on the CPU."""
    model, batch = toys.shared_model(vision=vision), toys.batch(vision=vision)
    hidden = replace(batch, frame_mask=batch.frame_mask & (torch.arange(4) != 1))
    expected = model.encode(hidden)
    monkeypatch.setattr(visions, "real_frames", positions_by_counts)
    from_counts = model.encode(hidden)
    torch.testing.assert_close(from_counts.frames, expected.frames, rtol=1e-4, atol=1e-5)
    if model.vision.clip_frames is None:  # else vectors belong to steps of a clip
        frames = from_counts.frames.unflatten(1, (4, model.vision.tokens_per_frame))
        assert not frames[:, 1].any(), "encoded, then zeroed by the mask"


def positions_by_counts(mask: torch.Tensor, frame_counts: tuple[int, ...]) -> torch.Tensor:
    """Return what `real_frames` returns for a mask on a GPU."""
    return real_frames(mask.to("meta"), frame_counts)


@every_vision
def test_positions_from_counts_are_those_of_the_mask(vision):
    batch = toys.batch(vision=vision)
    by_mask = batch.frame_mask.flatten().nonzero().flatten()
    assert torch.equal(real_frames(batch.frame_mask, batch.frame_counts), by_mask)
    assert torch.equal(positions_by_counts(batch.frame_mask, batch.frame_counts), by_mask)


def test_frames_beyond_the_counts_are_an_error():
    model, batch = toys.model(), toys.batch((3, 0, 4, 1))
    moved = replace(batch, frames=batch.frames.flip(0), frame_mask=batch.frame_mask.flip(0))
    with pytest.raises(ValueError, match="frame_mask marks frames beyond frame_counts"):
        model.encode(moved)
    model.encode(replace(moved, frame_counts=()))


@pytest.mark.parametrize("frozen", [False, True])
def test_on_a_cpu_many_frames_are_encoded_in_parts_of_nearly_equal_size(monkeypatch, frozen):
    """Not in training, where batch norms need all of them, and the bits are those of one part."""
    model = toys.model(frozen=frozen)
    model.vision.freeze()
    pixels = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    sizes = []
    model.vision.tower.register_forward_pre_hook(lambda tower, args: sizes.append(len(args[0])))
    with torch.no_grad():
        whole = model.vision.encode_pixels(pixels)
        monkeypatch.setattr(visions, "FRAMES_IN_CACHE", 4)
        parts = model.vision.encode_pixels(pixels)
    assert sizes == [9, 3, 3, 3]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    model.train()
    model.vision.encode_pixels(pixels)
    assert sizes[4:] == ([3, 3, 3] if frozen else [9])

"""Fingerprints of weights: every layout of memory, every shape, and every difference counts."""

import torch

from wbdc.core.weights import weights_fingerprint


def test_scalars_and_any_layout_of_memory_are_hashed_by_their_values():
    """A running statistic of no axis, and a convolution in channels_last, as a frozen timm tower
    holds them.
    """
    plain = {
        "steps": torch.tensor(3),
        "kernel": torch.randn(4, 3, 2, 2),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    other = plain | {"kernel": plain["kernel"].to(memory_format=torch.channels_last)}
    assert not other["kernel"].is_contiguous()
    assert weights_fingerprint(plain) == weights_fingerprint(other)
    for name, value in (
        ("steps", torch.tensor(4)),
        ("kernel", -plain["kernel"]),
        ("half", torch.zeros(2, dtype=torch.bfloat16)),
    ):
        assert weights_fingerprint(plain | {name: value}) != weights_fingerprint(plain), name


def test_the_weights_of_a_frozen_timm_tower_have_a_fingerprint():
    import toys

    vision = toys.model(vision="timm", frozen=True).vision
    assert len(weights_fingerprint(vision.state_dict())) == 64

"""Members from outside join the blend of the models as one more member."""

import numpy as np
import pytest
import torch
import toys

from wbdc.competitions import NO_FRAMES, Video
from wbdc.serve.blend import OutsideScores, blend_probabilities
from wbdc.serve.engine import InferenceEngine

CPU, WEIGHTS = torch.device("cpu"), [1.0, 3.0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list:
    home = tmp_path_factory.mktemp("members")
    return [toys.member(home / str(i), toys.model(seed=i), batch=2) for i in range(2)]


@pytest.mark.parametrize("sharpness", [0.0, 1.5])
@pytest.mark.parametrize("by_class", [False, True])
def test_members_from_outside_join_the_mean(folders, sharpness, by_class):
    videos = [Video(f"v{i}", {"title": "标题" * i, "asr": ""}, None, NO_FRAMES) for i in range(5)]
    models = [
        InferenceEngine([folder], [1.0], CPU, torch.float32, 1).predict(videos).probabilities
        for folder in folders
    ]
    classes = models[0].shape[1]
    table = np.random.default_rng(0).dirichlet(np.ones(classes), len(videos)).astype(np.float32)
    weights, weight = WEIGHTS, 2.0
    if by_class:
        weights = np.random.default_rng(1).uniform(0.1, 1, (2, classes)).tolist()
        weight = np.linspace(0.9, 0.2, classes).tolist()

    engine = InferenceEngine(
        folders,
        WEIGHTS,
        CPU,
        torch.float32,
        1,
        class_weights=weights if by_class else None,
        sharpness=sharpness,
    )
    groups = engine.groups(videos)
    outside = OutsideScores([table], [weight])
    predictions = engine.combine(groups, engine.score(videos, groups), outside)
    expected = blend_probabilities([*models, table], [*weights, weight], sharpness)
    np.testing.assert_allclose(predictions.probabilities, expected, rtol=1e-5)

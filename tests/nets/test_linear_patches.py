"""Linear patches are one matrix product of each patch, as in ViLT."""

import pytest
import torch
import toys

from wbdc.core.errors import UsageFault
from wbdc.nets.vision.linear_patches import LinearPatches


def test_each_vector_is_a_linear_map_of_its_patch_and_a_position():
    tower = LinearPatches(dim=8, patch=16, size=32)
    pixels = torch.randn(2, 3, 32, 32)
    weight = tower.project.weight.flatten(1)
    vectors = tower.encode(pixels)
    assert vectors.shape == (2, 4, 8)
    for number, (row, column) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
        patch = pixels[:, :, row : row + 16, column : column + 16].flatten(1)
        expected = patch @ weight.T + tower.project.bias + tower.position[number]
        torch.testing.assert_close(vectors[:, number], expected, rtol=1e-4, atol=1e-5)


def test_the_trunk_reads_words_and_patches_and_ignores_padding():
    model, batch = toys.model("single_stream", "linear_patches"), toys.batch()
    fused = model(batch)
    assert fused.frames.x.shape[1] == 1 + 4 * 4
    torch.testing.assert_close(model.logits(toys.pad(batch, 2, 3)), model.logits(batch))


def test_a_patch_that_does_not_divide_the_size_is_refused():
    with pytest.raises(UsageFault, match="patch = 30 does not divide size = 224; .* patch = 32"):
        LinearPatches(patch=30)

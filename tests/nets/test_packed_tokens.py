"""Real tokens move to the front and back again, with masks of either shape."""

import torch

from wbdc.core.tokens import Tokens
from wbdc.nets.packed_tokens import pack_tokens, unpack_tokens

REAL = torch.tensor([[1, 0, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 0]], dtype=torch.bool)


def test_real_tokens_keep_their_order_and_return_to_their_positions():
    x = torch.arange(1.0, 16).view(3, 5, 1)
    packed, order = pack_tokens(Tokens(x, REAL))
    assert packed.x.squeeze(2).tolist() == [[1, 3, 5, 0, 0], [6, 7, 8, 9, 10], [14, 0, 0, 0, 0]]
    assert packed.mask.sum(1).tolist() == [3, 5, 1]
    assert torch.equal(unpack_tokens(packed.x, order), x.masked_fill(~REAL.unsqueeze(2), 0))


def test_a_mask_of_pairs_moves_with_its_tokens():
    torch.manual_seed(0)
    pairs = (torch.rand(3, 5, 5) < 0.5) & REAL[:, None, :] | torch.eye(5, dtype=torch.bool)
    pairs = pairs & (REAL[:, :, None] | ~torch.eye(5, dtype=torch.bool))
    packed, _ = pack_tokens(Tokens(torch.zeros(3, 5, 1), pairs))
    for row in range(3):
        order = [i for i in range(5) if REAL[row, i]] + [i for i in range(5) if not REAL[row, i]]
        assert torch.equal(packed.mask[row], pairs[row][order][:, order])

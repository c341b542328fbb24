"""Rows and sums of all ranks, against the whole batch in one process."""

import numpy as np
import pytest
import rank_programs
import torch
from run_ranks import on_ranks

from wbdc.train.distributed.gather import gather_rows, sum_over_ranks


def test_one_rank_gathers_its_own_rows():
    x = torch.randn(3, 2)
    assert gather_rows(x, ()) is x
    assert gather_rows(x, (3,)) is x
    assert sum_over_ranks(x) is x
    with pytest.raises(ValueError, match=r"hold \(1, 2\) rows, but 3 rows are dealt as \(2, 1\)"):
        gather_rows(x, (1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [6, 5, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_trap_22_rows_come_in_the_order_of_the_whole_batch_with_gradient(rows, dtype):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(-8, 8, (rows, 3), generator=generator).to(dtype)
    factor = torch.randint(-4, 4, (2, rows, 3), generator=generator).float()
    for rank, (gathered, gradient) in enumerate(on_ranks(rank_programs.gather, whole, factor)):
        np.testing.assert_array_equal(gathered, whole.float().numpy())
        if gradient is not None:
            np.testing.assert_array_equal(gradient, factor.sum(0)[rank::2].numpy())

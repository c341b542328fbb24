"""torch.compile of a whole member: it is traced, and predicts as before."""

from functools import partial

import pytest
import torch
import toys

from wbdc.serve.members import load_member

# a trunk that runs some of its layers is copied without weights, which is not traced: such a fusion
# is compiled in several parts
IN_PARTS = ("albef",)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["single_stream", "dual_stream", *IN_PARTS])
@torch.no_grad()
def test_a_compiled_member_predicts_as_before(tmp_path, monkeypatch, fusion):
    """Batches of two shapes, so that the second is traced for all sizes. The fusions: one trunk,
    two streams with cross-attention, and one in parts.
    """
    traced = partial(torch.compile, backend="eager", fullgraph=fusion not in IN_PARTS)
    monkeypatch.setattr(torch, "compile", traced)
    member = load_member(toys.member(tmp_path, toys.model(fusion), fusion))
    batches = [toys.batch(), toys.batch((2, 3, 1))]
    expected = [member.logits(batch, None) for batch in batches]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    member.compile()
    for batch, logits in zip(batches, expected, strict=True):
        torch.testing.assert_close(member.logits(batch, None), logits, rtol=0, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs >= 2, "the tower and what follows it"
    torch._dynamo.reset()

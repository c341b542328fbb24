"""torch.compile of a whole member: it is traced without a break."""

from functools import partial

import pytest
import torch
import toys

from wbdc.serve.members import load_member


@pytest.fixture
def traced(monkeypatch):
    """torch.compile that traces only, and refuses what it cannot trace."""
    compiled = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", compiled)
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("fusion", toys.FUSIONS)
@torch.no_grad()
def test_a_compiled_member_predicts_as_before(tmp_path, traced, fusion):
    """Batches of two shapes, so that the second is traced for all sizes."""
    member = load_member(toys.member(tmp_path, toys.model(fusion), fusion))
    batches = [toys.batch(), toys.batch((2, 3, 1))]
    expected = [member.logits(batch, None) for batch in batches]
    member.compile()
    for batch, logits in zip(batches, expected, strict=True):
        torch.testing.assert_close(member.logits(batch, None), logits, rtol=0, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs >= 2, "the tower and what follows it"

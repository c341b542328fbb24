"""Heads: longhand references, weights of older models, and blueprints that rebuild them."""

import math

import pytest
import torch
import toys
from fake_cuda import fake_cuda, model_on_fake_cuda

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.nets import heads
from wbdc.nets.heads import Head
from wbdc.nets.model import build_model

DIM = 16
every_head = pytest.mark.parametrize("use", plug.plug_names(heads))


def build(use: str, parents: tuple[int, ...] = toys.TASK.parents, **settings: object) -> Head:
    torch.manual_seed(1)
    table = {"use": use, **settings}
    return plug.build_plug(heads, table, DIM, len(parents) or toys.CLASSES, parents)


def pooled(rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(2))


def test_the_linear_head_has_the_weights_and_their_names_of_a_linear_layer():
    """Models that were saved before heads were plugs load unchanged."""
    head = build("linear")
    torch.manual_seed(1)
    layer = torch.nn.Linear(DIM, toys.CLASSES)
    assert list(head.state_dict()) == list(layer.state_dict())
    assert all(torch.equal(t, layer.state_dict()[n]) for n, t in head.state_dict().items())
    assert torch.equal(head(pooled()), layer(pooled()))


def test_the_hierarchical_head_multiplies_two_softmaxes():
    head = build("hierarchical")
    parents = toys.TASK.parents
    for x, logits in zip(pooled(), head(pooled()).tolist(), strict=True):
        group_scores = head.of_group(x).exp().tolist()
        class_scores = head.of_class(x).exp().tolist()
        for c, logit in enumerate(logits):
            siblings = [class_scores[k] for k in range(len(parents)) if parents[k] == parents[c]]
            p_group = group_scores[parents[c]] / sum(group_scores)
            assert logit == pytest.approx(math.log(p_group * class_scores[c] / sum(siblings)), 1e-4)
        assert sum(map(math.exp, logits)) == pytest.approx(1)


def test_a_group_of_one_class_has_the_probability_of_its_group():
    head = build("hierarchical", (0, 1, 1, 2))
    expected = head.of_group(pooled()).log_softmax(1)
    torch.testing.assert_close(head(pooled())[:, [0, 3]], expected[:, [0, 2]])


def test_the_cosine_head_ignores_lengths():
    head = build("cosine", scale=5.0)
    expected = [
        [5 * torch.cosine_similarity(x, w, dim=0).item() for w in head.weight] for x in pooled()
    ]
    torch.testing.assert_close(head(3 * pooled()), torch.tensor(expected))
    assert head(torch.zeros(1, DIM)).tolist() == [[0.0] * toys.CLASSES]


@every_head
def test_every_head_is_rebuilt_from_its_blueprint(use):
    table = {"use": use}
    model = toys.model(head=table)
    assert (model.head.in_features, model.head.out_features) == (DIM, toys.CLASSES)
    tables = toys.blueprint()
    saved = model.blueprint(tables["fusion"], tables["pooling"], table)
    rebuilt = build_model(saved).eval()
    rebuilt.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(rebuilt.logits(toys.batch()), model.logits(toys.batch()))


def test_a_blueprint_without_a_head_has_a_linear_one():
    model = toys.model()
    older = {k: v for k, v in toys.blueprint().items() if k not in ("head", "parents")}
    rebuilt = build_model(older).eval()
    rebuilt.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(rebuilt.logits(toys.batch()), model.logits(toys.batch()))


@every_head
def test_every_head_trains_all_its_weights_in_half_precision_and_does_not_wait(use):
    head = build(use)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(pooled())
    torch.nn.functional.cross_entropy(logits.float(), torch.arange(4)).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in head.parameters())
    with fake_cuda():
        model_on_fake_cuda(head)
        assert head(pooled().to("cuda")).shape == (4, toys.CLASSES)


def test_classes_without_groups_and_a_setting_out_of_bounds_are_refused():
    with pytest.raises(UsageFault, match="'hierarchical' needs classes in groups, and the classes"):
        build("hierarchical", ())
    with pytest.raises(UsageFault, match="head 'cosine': scale = 0; it must be at least 1"):
        build("cosine", scale=0.0)

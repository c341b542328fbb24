"""simcse: two vectors of a video that differ in their dropout."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys
from objective_programs import build_objective, loss_of

from wbdc.core.errors import UsageFault
from wbdc.nets.model import build_model

SOURCES = {"text": [0, 1, 2, 3, 5], "pooled": [0, 1, 2, 3, 4, 5]}  # videos that count
every_source = pytest.mark.parametrize("source", SOURCES)


def vectors(model, batch, source):
    batch = model.encode(batch)
    if source == "pooled":
        return model.fuse(batch).pooled
    return model.trunk(model.text_tokens(batch)).mean()


def model_with_dropout():
    """Return a model in training mode whose passes differ."""
    blueprint = toys.blueprint()
    blueprint["trunk"] = {**blueprint["trunk"], "hidden_dropout_prob": 0.2}
    torch.manual_seed(0)
    return build_model(blueprint).train()


@every_source
def test_the_loss_is_that_of_the_paper_in_both_directions(source):
    """sim = cos(z1, z2) / temp; loss = CrossEntropyLoss(sim, arange(batch size)), with the names of
    the authors' code.
    """
    model = model_with_dropout()
    objective = build_objective("simcse", model, source=source, dropout=0.0)
    torch.manual_seed(5)
    loss = loss_of(objective, model, toys.batch())
    torch.manual_seed(5)
    first = model.fuse(model.encode(toys.batch()))  # of the training step
    passes = [vectors(model, toys.batch(), source) for _ in range(2)]
    if source == "pooled":
        passes = [first.pooled, passes[0]]
    z1, z2 = (objective.head(p)[SOURCES[source]] for p in passes)
    assert not torch.allclose(z1, z2)
    sim = F.cosine_similarity(z1[:, None], z2[None], dim=-1) / 0.05
    labels = torch.arange(len(z1))
    scale = math.log(6) / math.log(len(z1))  # to the chance level of a whole batch
    expected = scale * (F.cross_entropy(sim, labels) + F.cross_entropy(sim.T, labels)) / 2
    torch.testing.assert_close(loss, expected)
    assert objective.count(toys.batch()) == len(z1)
    assert objective.chance == math.log(toys.TASK.batch_size)


@every_source
def test_it_is_the_loss_of_sentence_transformers_without_dropout(source):
    """MultipleNegativesRankingLoss: CrossEntropyLoss(cos_sim(a, b) * scale, range(len(a)))."""
    model = toys.model()
    objective = build_objective("simcse", model, source=source, temperature=0.1)
    z = F.normalize(objective.head(vectors(model, toys.batch(), source))[SOURCES[source]], dim=1)
    scale = math.log(6) / math.log(len(z))  # to the chance level of a whole batch
    expected = scale * F.cross_entropy(z @ z.T * 10, torch.arange(len(z)))
    torch.testing.assert_close(loss_of(objective, model, toys.batch()), expected)


@every_source
def test_nothing_is_masked_in_both_passes(source):
    model = toys.model()
    original = model.encode(toys.batch())
    masked = replace(original, text=torch.where(original.text_field > 0, 4, original.text))
    objective = build_objective("simcse", model, source=source)
    clean = objective.loss(model, model.fuse(original), original, original)
    torch.testing.assert_close(objective.loss(model, model.fuse(masked), masked, original), clean)


def test_its_own_dropout_makes_the_views_differ_in_training_only():
    model = toys.model()
    objective = build_objective("simcse", model, dropout=0.5)
    silent = build_objective("simcse", model, dropout=0.0)
    torch.testing.assert_close(*(loss_of(o, model, toys.batch()) for o in (objective, silent)))
    model.train()
    assert loss_of(objective, model, toys.batch()) > loss_of(silent, model, toys.batch()) + 0.1


def test_texts_of_videos_without_words_change_nothing():
    model, batch = toys.model(), toys.batch()
    objective = build_objective("simcse", model)
    special = batch.text.clone()
    special[4, 2] = 1  # no word, as its field is 0
    changed = replace(batch, text=special)
    torch.testing.assert_close(*(loss_of(objective, model, b) for b in (batch, changed)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "txt"}, "source cannot be 'txt'; did you mean 'text'"),
        ({"temperature": 5.0}, "'simcse': temperature = 5; it must be between"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UsageFault, match=message):
        build_objective("simcse", toys.model(), **settings)

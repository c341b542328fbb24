"""inverse_cloze: a field of a text must find the rest of it."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys
from objective_programs import build_objective, loss_of

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.item_random import item_seeds
from wbdc.train.objectives.inverse_cloze import random_field

FIELDS = (  # of the words of six videos
    "1122233",
    "111",
    "2233",
    "",
    "1233",
    "13333",
)
VALID = [0, 2, 4, 5]  # videos with two fields


def batch_of_fields(fields: tuple[str, ...] = FIELDS, seed: int = 0) -> Batch:
    """Return texts whose words belong to these fields: [CLS], words, padding."""
    generator = torch.Generator().manual_seed(seed)
    width = 2 + max(map(len, fields))
    field = torch.zeros(len(fields), width, dtype=torch.int8)
    mask = torch.zeros(len(fields), width, dtype=torch.bool)
    for row, numbers in enumerate(fields):
        field[row, 1 : 1 + len(numbers)] = torch.tensor([int(n) for n in numbers])
        mask[row, : 1 + len(numbers)] = True
    text = torch.randint(5, toys.WORDS, (len(fields), width), generator=generator)
    text[:, 0] = toys.SPECIAL["[CLS]"]
    return replace(
        toys.batch(), text=text, text_mask=mask, text_field=field, seeds=item_seeds(FIELDS, 0, 0)
    )


def longhand(objective, model, batch: Batch, queries: list[int]) -> torch.Tensor:
    """Contrast each text with the others, one video after the other, without padding."""

    def encode(row: int, is_query: bool) -> torch.Tensor:
        words = [
            word
            for word, field in zip(batch.text[row].tolist(), batch.text_field[row], strict=True)
            if field > 0 and (field == queries[row]) == is_query
        ]
        ids = torch.tensor([[toys.SPECIAL["[CLS]"], *words]])
        vector = model.trunk.encoder(model.trunk.embed(ids)).last_hidden_state.mean(1)
        return (objective.queries if is_query else objective.candidates)(vector)

    x, y = (torch.cat([encode(row, flag) for row in VALID]) for flag in (True, False))
    scores = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / 0.07
    truth = torch.arange(len(VALID))
    scale = math.log(6) / math.log(len(VALID))  # to the chance level of a whole batch
    return scale * (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2


def test_the_title_is_the_query():
    model, batch = toys.model(), batch_of_fields()
    objective = build_objective("inverse_cloze", model, query="title")
    with_title = batch_of_fields(tuple(f if i != 2 else "1233" for i, f in enumerate(FIELDS)))
    torch.testing.assert_close(
        loss_of(objective, model, with_title), longhand(objective, model, with_title, [1] * 6)
    )
    assert objective.count(with_title) == 4
    assert objective.count(batch) == 3, "the third video has no title"
    assert objective.chance == math.log(toys.TASK.batch_size)


def test_a_random_field_is_the_query():
    model, batch = toys.model(), batch_of_fields()
    objective = build_objective("inverse_cloze", model)
    seen_queries = set()
    for epoch in range(3):
        epoch_batch = replace(batch, seeds=item_seeds(FIELDS, 0, epoch))
        is_query, _, is_valid = objective._split(epoch_batch)
        assert is_valid.nonzero().flatten().tolist() == VALID
        queries = (is_query * batch.text_field).amax(1).tolist()
        torch.testing.assert_close(
            loss_of(objective, model, epoch_batch),
            longhand(objective, model, epoch_batch, queries),
        )
        seen_queries.add(tuple(queries))
    assert len(seen_queries) == 3, "each epoch draws other fields"


def test_each_field_with_words_is_drawn_equally_often():
    batch = batch_of_fields()
    is_word = batch.text_field > 0
    fields = batch.text_field.long()
    draws = torch.arange(600) / 600
    drawn = torch.stack([random_field(fields, is_word, 3, d.expand(6)) for d in draws])
    counts = [Counter(drawn[:, row].tolist()) for row in range(6)]
    assert counts[0] == {1: 200, 2: 200, 3: 200}
    assert counts[2] == {2: 300, 3: 300}
    assert counts[5] == {1: 300, 3: 300}
    almost_one = torch.full((6,), 1 - 2.0**-24)
    assert random_field(fields, is_word, 3, almost_one).tolist() == [3, 1, 3, 1, 3, 3]


def test_the_removed_field_cannot_be_read():
    """Neither its words nor its length, which a gap in the positions would show."""
    model = toys.model()
    objective = build_objective("inverse_cloze", model, query="title")
    vectors = []
    for title, seed in (("1", 0), ("1", 1), ("11111", 2)):
        batch = batch_of_fields((f"{title}2233",) * 6, seed)
        batch = replace(batch, text=torch.where(batch.text_field > 1, 9, batch.text))
        captured = []
        hook = objective.candidates.register_forward_hook(lambda _, x, y, c=captured: c.append(y))
        loss_of(objective, model, batch)
        hook.remove()
        vectors.append(captured[0])
    torch.testing.assert_close(vectors[1], vectors[0])
    torch.testing.assert_close(vectors[2], vectors[0])


def test_a_video_does_not_depend_on_the_others_of_its_batch():
    """Trap 8: permuting the batch permutes the queries, as they belong to the video."""
    objective = build_objective("inverse_cloze", toys.model())
    batch = batch_of_fields()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = replace(
        batch,
        ids=tuple(batch.ids[i] for i in order),
        text=batch.text[order],
        text_mask=batch.text_mask[order],
        text_field=batch.text_field[order],
        seeds=batch.seeds[order],
    )
    for one, other in zip(objective._split(batch), objective._split(permuted), strict=True):
        assert torch.equal(one[order], other)


@pytest.mark.parametrize(
    ("settings", "fields", "message"),
    [
        (
            {"query": "titel"},
            ("title", "asr"),
            "called 'titel'; did you mean 'title'",
        ),
        ({}, ("title",), "compares text fields, and the kit reads only title; add a field"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, fields, message):
    task = replace(toys.TASK, fields=fields)
    with pytest.raises(UsageFault, match=message):
        build_objective("inverse_cloze", toys.model(), task, **settings)

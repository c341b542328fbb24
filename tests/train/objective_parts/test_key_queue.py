"""The queue of a momentum encoder: the newest pairs, once for each step."""

import torch

from wbdc.train.objective_parts.key_queue import KeyQueue, PairKeys


def keys(*values: float, is_pair: tuple[bool, ...] = ()) -> PairKeys:
    text = torch.tensor(values)[:, None].expand(-1, 2).float()
    return PairKeys(text, -text, torch.tensor(is_pair or (True,) * len(values)))


def content(queue: KeyQueue) -> list[float]:
    assert torch.equal(queue.text, -queue.frames)
    return queue.text[queue.is_filled][:, 0].tolist()


def push(queue: KeyQueue, *batches: PairKeys) -> list[float]:
    for number, batch in enumerate(batches):
        queue.add((f"batch {number}", "x"), batch)
    queue.push()
    return content(queue)


def test_the_newest_keys_stay():
    queue = KeyQueue(3, 2)
    assert content(queue) == []
    assert push(queue, keys(1, 2)) == [1, 2]
    assert push(queue, keys(3, 4)) == [3, 4, 1]
    assert push(queue, keys(5, 6, 7, 8)) == [5, 6, 7], "more keys than the queue holds"


def test_videos_without_both_and_keys_that_are_not_finite_are_not_queued():
    queue = KeyQueue(3, 2)
    assert push(queue, keys(1, 2, 3, is_pair=(True, False, True))) == [1, 3]
    assert push(queue, keys(4, float("nan"), float("inf"))) == [4, 1, 3]
    assert push(queue, keys(5, is_pair=(False,))) == [4, 1, 3], "they do not displace older keys"
    assert queue.text.isfinite().all()


def test_a_step_adds_each_batch_once():
    queue = KeyQueue(8, 2)
    for _ in range(2):  # a clean and an adversarial pass over two batches
        queue.add(("a", "b"), keys(1, 2))
        queue.add(("c", "d"), keys(3, 4))
    assert content(queue) == [], "the queue changes at the end of the step"
    queue.push()
    assert sorted(content(queue)) == [1, 2, 3, 4]
    queue.push()
    assert sorted(content(queue)) == [1, 2, 3, 4]


def test_a_step_that_starts_again_in_parts_adds_each_video_once():
    queue = KeyQueue(8, 2)
    queue.add(("a", "b"), keys(1, 2))
    queue.add(("a",), keys(1))
    queue.add(("b",), keys(2))
    queue.push()
    assert sorted(content(queue)) == [1, 2]


def test_a_step_that_was_skipped_adds_nothing():
    queue = KeyQueue(8, 2)
    queue.add(("a", "b"), keys(1, 2))
    queue.discard()
    queue.push()
    assert content(queue) == []


def test_keys_of_the_batch_come_before_those_of_the_queue():
    queue = KeyQueue(3, 2)
    push(queue, keys(1, 2))
    candidates = queue.append_to(keys(7, 8, is_pair=(True, False)))
    assert candidates.text[:, 0].tolist() == [7, 8, 1, 2, 0]
    assert candidates.is_pair.tolist() == [True, False, True, True, False]

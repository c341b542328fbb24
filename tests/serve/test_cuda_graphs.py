"""CUDA graphs on a machine without a GPU: operations are recorded and executed again."""

from contextlib import contextmanager

import pytest
import torch
import toys
from fake_cuda import batch_on_fake_cuda, fake_cuda, model_on_fake_cuda
from listed_cuda import ListedStream
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wbdc.serve import cuda_graphs
from wbdc.serve.cuda_graphs import WARM_UP_CALLS, FixedFrames, GraphedFunction
from wbdc.serve.members import load_member

CPU = torch.device("cpu")


class RecordedOperations(TorchDispatchMode):
    """In place of a CUDA graph: executes the operations of a block again, on the same memory."""

    def __init__(self):
        super().__init__()
        self.operations: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        for func, args, kwargs, result in self.operations:
            results = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(results), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """Recordings and waits in their order."""
    log = []
    streams = [ListedStream("computing", log)]

    @contextmanager
    def use_stream(stream):
        streams.append(stream)
        yield
        streams.pop()

    @contextmanager
    def record(graph, pool, stream, *, capture_error_mode):
        log.append(f"record in {pool} and {stream.name}, {capture_error_mode}")
        with graph:
            yield

    class SideStream(ListedStream):  # transformers annotates with torch's class
        def __init__(self, device):
            super().__init__("side stream", log)

    monkeypatch.setattr(torch.cuda, "Stream", SideStream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[0])
    monkeypatch.setattr(torch.cuda, "stream", use_stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedOperations)
    monkeypatch.setattr(torch.cuda, "graph", record)
    return log


def test_a_shape_is_recorded_at_its_second_call_and_then_replayed(log):
    def square(x, y):
        log.append("square")
        return x.square() + y

    graphed = GraphedFunction(square, CPU)
    inputs = [(torch.randn(3), torch.randn(3)) for _ in range(4)]
    results = [graphed(*pair) for pair in inputs]
    assert log == [
        "square",
        "side stream waits for computing",
        *["square"] * WARM_UP_CALLS,
        "computing waits for side stream",
        "record in pool and side stream, thread_local",
        "square",
    ]
    for (x, y), result in zip(inputs, results, strict=True):
        assert torch.equal(result, x.square() + y), "a later replay does not overwrite a result"

    graphed(torch.randn(2), torch.randn(2))
    assert log[-1] == "square", "a shape that occurs once is not recorded"


def test_no_more_shapes_are_recorded_than_fit(log, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 1)
    graphed = GraphedFunction(torch.square, CPU)
    for size in (2, 2, 3, 3):
        assert torch.equal(graphed(torch.ones(size)), torch.ones(size))
    assert sum(entry.startswith("record") for entry in log) == 1


def test_frames_are_encoded_in_parts_of_few_sizes(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_FRAMES_PER_GRAPH", 4)
    sizes = []
    encode = FixedFrames(lambda pixels: sizes.append(len(pixels)) or pixels.flatten(1).float())
    pixels = torch.randint(0, 255, (7, 3, 2, 2), dtype=torch.uint8)
    for count in (7, 1, 4, 6):
        assert torch.equal(encode(pixels[:count]), pixels[:count].flatten(1).float())
    assert sizes == [4, 4, 1, 4, 4, 2]


@pytest.mark.parametrize(("length", "parts"), [(6, [16, 16, 8]), (8, [16, 16, 8]), (200, [1] * 40)])
def test_full_parts_of_clips_are_not_padded(length, parts):
    sizes = []
    encode = FixedFrames(lambda clips: sizes.append(len(clips)) or clips, length)
    assert len(encode(torch.zeros(40, length, 3, 1, 1, dtype=torch.uint8))) == 40
    assert sizes == parts


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_a_member_with_graphs_predicts_as_without(tmp_path, log, monkeypatch, precision):
    """Texts and frames are padded, so the shapes of all batches are equal; logits differ by
    rounding.
    """
    monkeypatch.setattr(cuda_graphs, "MAX_FRAMES_PER_GRAPH", 8)
    folder = toys.member(tmp_path, toys.model("cross_attention"), "cross_attention")
    batches = [
        toys.batch(counts, seed=seed)
        for seed, counts in enumerate([(3, 0, 4, 1, 2, 4), (1, 1, 1, 1, 1, 1), (2, 8, 0, 1, 2, 1)])
    ]

    @torch.no_grad()
    def logits(member):
        with torch.autocast("cpu", torch.float16, enabled=precision != torch.float32):
            return [member.logits(batch, None) for batch in batches]

    plain, graphed = load_member(folder), load_member(folder)
    for member in (plain, graphed):
        member.use_precision(precision)
    graphed.use_cuda_graphs()
    tolerance = 1e-5 if precision == torch.float32 else 5e-3
    for expected, computed in zip(logits(plain), logits(graphed), strict=True):
        torch.testing.assert_close(computed, expected, rtol=0, atol=tolerance)
    assert sum(entry.startswith("record") for entry in log) == 2, "one of frames, one of tokens"

    if precision != torch.float32:  # the graphs would read weights that are gone
        for member in (plain, graphed):
            member.use_precision(torch.float32)
        for expected, computed in zip(logits(plain), logits(graphed), strict=True):
            assert torch.equal(computed, expected)
        assert sum(entry.startswith("record") for entry in log) == 2


@pytest.mark.slow
def test_each_tower_of_two_streams_is_recorded(tmp_path, log):
    model = toys.model(vision="two_stream")
    member = load_member(toys.member(tmp_path, model))
    batch = toys.batch()
    with torch.no_grad():
        expected = member.logits(batch, None)
        member.use_cuda_graphs()
        for _ in range(2):
            torch.testing.assert_close(member.logits(batch, None), expected, rtol=0, atol=1e-5)
    assert sum(entry.startswith("record") for entry in log) == 3, "two of frames, one of tokens"
    member.compile()
    assert not any("encode_pixels" in vars(t) for t in member.model.vision.parts().values())


class HostReads(TorchDispatchMode):
    """Lists operations that read memory of the CPU for a GPU, which a graph must not do."""

    def __init__(self):
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sources, results = (
            [x for x in tree_leaves(values) if isinstance(x, torch.Tensor)]
            for values in ((args, kwargs), result)
        )
        reads_host = any(x.device.type == "cpu" for x in sources if x.dim())
        if reads_host and any(x.device.type == "cuda" for x in results):
            self.operations.append(str(func))
        return result


def test_a_recorded_tower_copies_nothing_from_the_cpu():
    model, batch = toys.model(), toys.batch()
    with fake_cuda():
        vision = model_on_fake_cuda(model).vision
        pixels = batch_on_fake_cuda(batch).frames.flatten(0, 1)
        vision.encode_pixels(pixels)
        with HostReads() as reads:
            assert vision.encode_pixels(pixels).device.type == "cuda"
            assert reads.operations == []


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_a_recorded_fusion_copies_nothing_from_the_cpu(tmp_path, fusion):
    model = toys.model(fusion, "features")
    member = load_member(toys.member(tmp_path, model, fusion))
    with fake_cuda():
        model_on_fake_cuda(member.model)
        encoded = member.model.encode(batch_on_fake_cuda(toys.batch(vision="features")))
        tensors = encoded.text, encoded.text_mask, encoded.frames, encoded.frame_mask
        member._score_tokens(*tensors)
        with HostReads() as reads:
            assert member._score_tokens(*tensors).device.type == "cuda"
            assert reads.operations == []
            torch.ones(3).to("cuda")
            assert len(reads.operations) == 1

"""CUDA graphs: what a network launches for inputs of one shape, recorded once and then replayed.

A replay is one launch, so that small batches are not limited by the CPU. A recorded function waits
for nothing, copies nothing from the CPU and allocates the same memory at each call.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_GRAPHS = 16  # of a function; further shapes are launched one operation after the other
WARM_UP_CALLS = 3  # before a recording, for libraries that set themselves up at their first calls
RECORDED_CALL = 2  # of a shape: one that occurs once, for example the last batch, is not recorded
MAX_FRAMES_PER_GRAPH = 128
TOKENS_PER_GRAPH = 32  # texts are padded to a multiple of it, so that few shapes occur

TensorFunction = Callable[..., Tensor]


class GraphedFunction:
    """A function of GPU tensors that returns one, recorded for each shape of its inputs.

    It is called in one stream only. Results are copied, so the caller may keep them.
    """

    def __init__(self, function: TensorFunction, device: torch.device):
        self.function = function
        self.device = device
        self._calls: Counter[tuple] = Counter()
        self._graphs: dict[tuple, _Recording] = {}
        # one after the other, graphs may use the same memory for what they do not return
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *inputs: Tensor) -> Tensor:
        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs)
        self._calls[key] += 1
        is_due = self._calls[key] >= RECORDED_CALL and len(self._graphs) < MAX_GRAPHS
        if key not in self._graphs and is_due:
            self._graphs[key] = _Recording(self.function, inputs, self.device, self._pool)
        if key not in self._graphs:
            return self.function(*inputs)
        return self._graphs[key].replay(inputs)


class _Recording:
    """The graph of a function for inputs of one shape, and the memory that it reads and writes."""

    def __init__(
        self,
        function: TensorFunction,
        inputs: tuple[Tensor, ...],
        device: torch.device,
        pool: tuple[int, int],
    ):
        self.inputs = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream(device)  # of this device, also where another is the default
        stream.wait_stream(torch.cuda.current_stream(device))
        # what autocast cached before the recording would be freed before a replay
        with torch.autocast(device.type, cache_enabled=False, **_autocast_settings(device)):
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_CALLS):
                    function(*self.inputs)
            torch.cuda.current_stream(device).wait_stream(stream)

            self.graph = torch.cuda.CUDAGraph()
            # threads that read the next batches allocate page-locked memory meanwhile
            with torch.cuda.graph(self.graph, pool, stream, capture_error_mode="thread_local"):
                self.output = function(*self.inputs)

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Compute the function of other inputs of the same shape."""
        for recorded, tensor in zip(self.inputs, inputs, strict=True):
            recorded.copy_(tensor)
        self.graph.replay()
        return self.output.clone()


class FixedFrames:
    """Encodes frames in parts of few sizes: (M, 3, S, S) uint8 -> (M, D); or clips of `length`
    frames: (M, length, 3, S, S) uint8 -> (M, D). The last part is padded with blank frames to a
    power of two; their vectors are dropped.
    """

    def __init__(self, encode: TensorFunction, length: int = 1):
        self.encode = encode
        # the largest power of two that fits: whole parts need no padding
        self.items_per_graph = 1 << (max(1, MAX_FRAMES_PER_GRAPH // length).bit_length() - 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        parts = pixels.split(self.items_per_graph)
        sizes = [1 << (len(part) - 1).bit_length() for part in parts]
        vectors = [
            self.encode(_pad(part, 0, size)) for part, size in zip(parts, sizes, strict=True)
        ]
        return torch.cat(vectors)[: len(pixels)]


class FixedTokens:
    """Scores texts that are padded to a multiple of TOKENS_PER_GRAPH, and all possible frames.

    score: a function of text (B, T), text_mask (B, T), features (B, N, D) and frame_mask (B, N),
    and of rows (B, M, D) and mask (B, M) of each further modality. max_tokens, max_features: the
    largest T and N. max_steps: the largest M of each further modality.
    """

    def __init__(
        self,
        score: TensorFunction,
        max_tokens: int,
        max_features: int,
        max_steps: Sequence[int] = (),
    ):
        self.score = score
        self.max_tokens = max_tokens
        self.max_features = max_features
        self.max_steps = tuple(max_steps)

    def __call__(
        self,
        text: Tensor,
        text_mask: Tensor,
        features: Tensor,
        frame_mask: Tensor,
        *modalities: Tensor,
    ) -> Tensor:
        tokens = min(text.shape[1] + -text.shape[1] % TOKENS_PER_GRAPH, self.max_tokens)
        return self.score(
            _pad(text, 1, tokens),
            _pad(text_mask, 1, tokens),
            _pad(features, 1, self.max_features),
            _pad(frame_mask, 1, self.max_features),
            *(_pad(t, 1, self.max_steps[i // 2]) for i, t in enumerate(modalities)),
        )


def _pad(tensor: Tensor, dim: int, size: int) -> Tensor:
    """Append zeros to a dimension up to a size."""
    missing = size - tensor.shape[dim]
    return F.pad(tensor, (0, 0) * (tensor.dim() - 1 - dim) + (0, missing))


def _autocast_settings(device: torch.device) -> dict:
    """Return the settings of the active autocast context."""
    return {
        "enabled": torch.is_autocast_enabled(device.type),
        "dtype": torch.get_autocast_dtype(device.type),
    }

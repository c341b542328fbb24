"""Out of memory: how it is recognized, and in how many parts a batch that did not fit is computed."""

from wbdc.core.errors import OutOfResources
from wbdc.core.files import RESOURCE_ERRNOS

# of torch's CPU and CUDA allocators, of cuBLAS and cuDNN, of libavif, and of the system
OUT_OF_MEMORY_MESSAGES = (
    "out of memory",
    "Out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "Cannot allocate memory",
    "failed to map segment",
)
LIBJPEG_MESSAGE = "Insufficient memory (case"  # simplejpeg raises it as a ValueError
MAX_BATCH_PARTS = 8  # a batch is halved three times
MEMORY_PROBE_BYTES = 2**28


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the memory of the CPU or the GPU ran out:
    torch.OutOfMemoryError is a RuntimeError.
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, ValueError):
        return str(error).startswith(LIBJPEG_MESSAGE)
    return isinstance(error, (RuntimeError, OSError, ImportError)) and any(
        message in str(error) for message in OUT_OF_MEMORY_MESSAGES
    )


def raise_if_exhausted(error: BaseException) -> None:
    """Raise an error of a reader again when this machine lacks memory or file handles: the data are
    not damaged.
    """
    if is_out_of_memory(error) or getattr(error, "errno", None) in RESOURCE_ERRNOS:
        raise error


def is_memory_short() -> bool:
    """Try to allocate 256 MiB. For errors that mean damaged data as well as too little memory."""
    try:
        bytearray(MEMORY_PROBE_BYTES)
    except MemoryError:
        return True
    return False


class BatchParts:
    """In how many parts batches are computed. It only grows: what did not fit once is not tried
    again.
    """

    def __init__(self) -> None:
        self.count = 1

    def double(self, rows: int, advice: str) -> None:
        """Halve the parts of a batch of `rows` videos that did not fit. Raises OutOfResources when
        they were halved three times.
        """
        if self.count == MAX_BATCH_PARTS or self.count >= rows:
            tried = "alone" if self.count >= rows else f"even in {self.count} parts"
            raise OutOfResources(
                f"memory ran out: a batch of {rows} videos does not fit, {tried}; {advice}"
            )
        import torch

        self.count *= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def slices(self, rows: int) -> list[slice]:
        """Cut `rows` videos into parts of nearly equal size."""
        parts = min(self.count, rows) or 1
        ends = [rows * number // parts for number in range(parts + 1)]
        return [slice(*pair) for pair in zip(ends, ends[1:])]

"""Out-of-memory errors: how they are recognized, and how a batch is split when it does not fit."""

from itertools import pairwise

from wbdc.core.errors import OutOfResources
from wbdc.core.files import RESOURCE_ERRNOS

# messages of torch's CPU and CUDA allocators, cuBLAS and cuDNN, libavif, and the system
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
MAX_BATCH_PARTS = 8  # a batch is halved at most three times
MEMORY_PROBE_BYTES = 2**28


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the CPU or the GPU ran out.

    torch.OutOfMemoryError is a RuntimeError; its message is compared.
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, ValueError):
        return str(error).startswith(LIBJPEG_MESSAGE)
    return isinstance(error, (RuntimeError, OSError, ImportError)) and any(
        message in str(error) for message in OUT_OF_MEMORY_MESSAGES
    )


def raise_if_exhausted(error: BaseException) -> None:
    """Raise an error of a reader again when memory or file handles ran out.

    In that case the data are not damaged.
    """
    if is_out_of_memory(error) or getattr(error, "errno", None) in RESOURCE_ERRNOS:
        raise error


def is_memory_short() -> bool:
    """Return whether 256 MiB cannot be allocated.

    This separates damaged data from too little memory, where an error may mean either.
    """
    try:
        bytearray(MEMORY_PROBE_BYTES)
    except MemoryError:
        return True
    return False


class BatchParts:
    """The number of parts in which batches are computed.

    It only grows: a size that did not fit is not tried again.
    """

    def __init__(self) -> None:
        self.count = 1

    def double(self, rows: int, advice: str) -> None:
        """Double the number of parts, after a batch of `rows` videos did not fit.

        advice: end of the error message. Raises OutOfResources when a part is one video, or when
        the batch was halved three times.
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
        return [slice(start, end) for start, end in pairwise(ends)]

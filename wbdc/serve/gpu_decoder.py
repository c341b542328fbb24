"""Decodes frames on a GPU in the threads that read videos, each in a stream of its own."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data.frames import decode_frames
from wbdc.data.gpu_frames import decode_frames_on_gpu, jpeg_decoder


class GpuDecoder:
    """The decoder of a GPU. Raises EnvironmentFault when it cannot decode here."""

    def __init__(self, device: torch.device):
        self.device = device
        self.decode = jpeg_decoder(device)
        self._thread = threading.local()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Launch in a stream of this thread, and wait at the end until all is computed.

        The networks never wait: what a thread returns is ready for any stream.
        """
        if not hasattr(self._thread, "stream"):
            self._thread.stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._thread.stream):
            yield
        self._thread.stream.synchronize()

    def decode_frames(
        self,
        encoded: Sequence[bytes],
        settings: ImageSettings,
        findings: Findings,
        location: str,
        crops: int = 1,
    ) -> Tensor:
        """Decode the frames of a video, see `decode_frames_on_gpu`: (n, 3, S, S) uint8. Several
        crops of a frame are decoded by the CPU.
        """
        if crops > 1:
            squares = decode_frames(encoded, settings, findings, location, crops=crops)
            return torch.from_numpy(squares).to(self.device)
        return decode_frames_on_gpu(encoded, settings, self.device, self.decode, findings, location)

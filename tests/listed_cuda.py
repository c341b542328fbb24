"""Streams and events in place of CUDA's: they list what waits for what."""


class ListedStream:
    """In place of a CUDA stream."""

    def __init__(self, name: str, log: list[str]):
        self.name = name
        self.log = log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")

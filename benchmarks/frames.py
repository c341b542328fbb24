"""JPEG frames to pixels and archives to batches, against the way of public solutions.

    python benchmarks/frames.py --rounds 5

The solutions decode by Pillow, resize and normalize to float32 by torchvision's Compose, and batch
by a DataLoader. `wbdc` reads, decodes and collates as its packed submissions do. Both alternate in
one process; a rate is the best of the rounds, which a busy machine disturbs least. Pixels are
compared in the same run, before they are timed. One core means that the process is bound to one,
and its CPU time counts; with two cores, the time of the clock on the wall counts.

`entropy` is decoding to an eighth of the size in gray, which reads every bit and transforms almost
nothing; `decode` is decoding by simplejpeg alone. Their rates bound what a reader on top of this
decoder can reach.
"""

import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import click
import numpy as np
import simplejpeg
import torch
import torchvision.transforms as T
from PIL import Image
from scenes import photo
from torch.utils.data import DataLoader, Dataset

from wbdc.competitions import Source, Video
from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data.frames import decode_frames
from wbdc.data.loader import collate
from wbdc.serve.engine import READ_AHEAD_BATCHES
from wbdc.serve.members import FrameKey
from wbdc.serve.reader import Reader, prefetch_reads
from wbdc.serve.stage_timer import StageTimer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGES, FRAMES, BATCH = 32, 14, 8
MAX_FAST_DIFFERENCE = 2  # levels of 255
CUT = ImageSettings(224, MEAN, STD, short=256)
EXACT = ImageSettings(224, MEAN, STD)
FAST = EXACT.with_resize("fast")


def compose(short: int, *last: Callable) -> T.Compose:
    """Return the transform of public solutions, up to the cropped picture, and what follows."""
    resize = T.Resize(short, T.InterpolationMode.BICUBIC)
    return T.Compose([resize, T.CenterCrop(224), *last])


def solution_pixels(short: int, encoded: list[bytes]) -> list[torch.Tensor]:
    transform = compose(short, T.ToTensor(), T.Normalize(MEAN, STD))
    return [transform(Image.open(BytesIO(data)).convert("RGB")) for data in encoded]


def wbdc_pixels(settings: ImageSettings, encoded: list[bytes]) -> np.ndarray:
    return decode_frames(encoded, settings, Findings())


def compare_pixels(encoded: list[bytes]) -> dict[str, dict[str, float]]:
    """Return how `wbdc` differs from Pillow: the share of values and the largest difference.

    Raises SystemExit where exact pixels are not equal.
    """
    differences = {}
    for name, settings in {"cut": CUT, "exact": EXACT, "fast": FAST}.items():
        transform = compose(settings.short or settings.size, np.asarray)
        expected = np.stack([transform(Image.open(BytesIO(d)).convert("RGB")) for d in encoded])
        gap = np.abs(wbdc_pixels(settings, encoded).transpose(0, 2, 3, 1) - expected.astype(int))
        differences[name] = {"share": float((gap > 0).mean()), "largest": int(gap.max())}
        if gap.max() > (MAX_FAST_DIFFERENCE if settings is FAST else 0):
            raise SystemExit(f"pixels of {name} differ from Pillow's by up to {gap.max()}")
    return differences


class ArchiveMember:
    """What the reader uses of a member of an ensemble; its text is one token."""

    text_key = "none"
    modality_keys = ()
    is_network = True

    def __init__(self, settings: ImageSettings):
        self.frame_key = FrameKey(settings, FRAMES)

    def encode_text(self, fields: list) -> list[list[int]]:
        return [[0]] * len(fields)

    collate = staticmethod(collate)


class SolutionDataset(Dataset):
    """Reads frames as public solutions do: open the archive, Pillow, Compose to float32."""

    def __init__(self, paths: list[Path], short: int):
        self.paths, self.short = paths, short

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with zipfile.ZipFile(self.paths[index]) as archive:
            encoded = [archive.read(name) for name in archive.namelist()]
        return torch.stack(solution_pixels(self.short, encoded))


def solution_batches(paths: list[Path], short: int, workers: int) -> Iterator[torch.Tensor]:
    yield from DataLoader(SolutionDataset(paths, short), BATCH, num_workers=workers)


def wbdc_batches(
    paths: list[Path], settings: ImageSettings, threads: int
) -> Iterator[torch.Tensor]:
    """Yield batches as the engine reads them, while a network would compute."""
    reader, stages = Reader([ArchiveMember(settings)]), StageTimer()
    videos = [Video(path.stem, {}, None, Source(path)) for path in paths]

    def read(start: int) -> tuple:
        return reader.read(videos[start : start + BATCH], [0], stages)

    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, len(videos), BATCH)
        for _, (batches, _) in prefetch_reads(pool, starts, read, READ_AHEAD_BATCHES, lambda: None):
            yield batches[0].frames


def consume(batches: Callable[[], Iterator[torch.Tensor]]) -> None:
    """Read a value of every batch, so that lazy work is done."""
    for frames in batches():
        frames.flatten()[0].item()


def rates(
    jobs: dict[str, Callable[[], object]], items: int, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Run jobs in turn and return the items per second of the best round of each."""
    seconds = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for name, job in jobs.items():
            start = clock()
            job()
            seconds[name] = min(seconds[name], clock() - start)
    return {name: items / value for name, value in seconds.items()}


def write_archives(folder: Path, videos: int) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.zip" for number in range(videos)]
    for path in paths:
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(FRAMES):
                archive.writestr(f"{number}.jpg", photo(random))
    return paths


def time_images(encoded: list[bytes], rounds: int) -> dict[str, float]:
    """Return images per second on one core."""
    jobs = {
        "solutions cut": partial(solution_pixels, 256, encoded),
        "cut": partial(wbdc_pixels, CUT, encoded),
        "solutions resized": partial(solution_pixels, 224, encoded),
        "exact": partial(wbdc_pixels, EXACT, encoded),
        "fast": partial(wbdc_pixels, FAST, encoded),
        "decode": lambda: [simplejpeg.decode_jpeg(data) for data in encoded],
        "entropy": lambda: [
            simplejpeg.decode_jpeg(data, "GRAY", min_width=32, min_height=32) for data in encoded
        ],
    }
    return rates(jobs, len(encoded), rounds, time.process_time)


def time_archives(paths: list[Path], cores: int, rounds: int) -> dict[str, float]:
    """Return videos per second. With one core, the DataLoader reads in the main process."""
    workers = 0 if cores == 1 else cores
    jobs = {}
    for name, settings in {"cut": CUT, "exact": EXACT, "fast": FAST}.items():
        short = settings.short or settings.size
        if settings is not FAST:  # the solutions' way of resizing serves for both
            solution = partial(solution_batches, paths, short, workers)
            jobs[f"solutions {name}"] = partial(consume, solution)
        jobs[name] = partial(consume, partial(wbdc_batches, paths, settings, cores))
    # worker processes have clocks of their own
    clock = time.process_time if cores == 1 else time.perf_counter
    return rates(jobs, len(paths), rounds, clock)


def print_rates(title: str, values: dict[str, float], names: dict[str, str]) -> None:
    """Print the rate of each job of `wbdc`, and its ratio to the named job of the solutions."""
    for name, solution in names.items():
        ratio = values[name] / values[solution]
        click.echo(f"{title:28} {name:8} {values[name]:8,.0f}/s  {ratio:5.2f} x")


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Measurements of each job.")
@click.option("--videos", default=16, show_default=True, help="Archives of 14 frames each.")
def main(rounds: int, videos: int) -> None:
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    random = np.random.default_rng(1)
    encoded = [photo(random) for _ in range(IMAGES)]
    result = {"pixels": compare_pixels(encoded)}

    os.sched_setaffinity(0, cores[-1:])
    solutions = {"cut": "solutions cut", "exact": "solutions resized", "fast": "solutions resized"}
    result["images"] = time_images(encoded, rounds)
    bounds = {"decode": "solutions cut", "entropy": "solutions cut"}
    print_rates("JPEG to 224, one core", result["images"], solutions | bounds)

    solutions = {"cut": "solutions cut", "exact": "solutions exact", "fast": "solutions exact"}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_archives(Path(folder), videos)
        result["one core"] = time_archives(paths, 1, rounds)
        print_rates("zip to batch, one core", result["one core"], solutions)
        os.sched_setaffinity(0, cores)
        if len(cores) > 1:
            result["two cores"] = time_archives(paths, 2, rounds)
            print_rates("zip to batch, two cores", result["two cores"], solutions)
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()

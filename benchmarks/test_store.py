"""Archives to batches, in the first epoch and in later epochs: wbdc and public solutions.

Run with `pytest benchmarks --benchmark-enable -n 0`.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image
from scenes import photo
from sizes import choose_size
from torch.utils.data import DataLoader, Dataset

from wbdc.competitions import Source
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.batch import Batch
from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data.archive import read_images
from wbdc.data.frames import decode_frames
from wbdc.data.loader import collate, prefetch
from wbdc.data.text import TextReader, learn_tokenizer
from wbdc.prepare.build import prepare_data
from wbdc.prepare.view import InputSpec, View, open_view

VIDEOS, FRAMES = choose_size(16, 64, 64), choose_size(2, 14, 14)
SIZE, BATCH = 224, 16
TRANSFORM = ImageSettings(
    SIZE, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), short=256
)
FIRST_EPOCH, LATER_EPOCH = "archives to batches, two cores", "a later epoch, one core"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data folder with 64 videos of 14 frames."""
    into, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    items = [
        {"id": f"{i:020}", "title": "标题", "asr": "", "ocr": [], "category_id": "0000"}
        for i in range(VIDEOS)
    ]
    (into / "annotations").mkdir()
    (into / "annotations" / "labeled.json").write_text(json.dumps(items))
    for item in items:
        path = into / "zip_frames" / "labeled" / item["id"][-3:] / f"{item['id']}.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(FRAMES):
                archive.writestr(f"{number}.jpg", photo(rng))
    return into


class SolutionDataset(Dataset):
    """Reads frames as public solutions do: open the archive, Pillow, Compose to float32."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.compose = T.Compose(
            [
                T.Resize(256),
                T.CenterCrop(SIZE),
                T.ToTensor(),
                T.Normalize(TRANSFORM.mean, TRANSFORM.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with zipfile.ZipFile(self.paths[index]) as archive:
            return torch.stack(
                [
                    self.compose(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                    for name in archive.namelist()
                ]
            )


def sources(root: Path) -> list[Source]:
    return [video.source for video in WeChat2022().videos(root, "labeled", Findings())]


def solution_batches(root: Path, workers: int) -> Iterator[torch.Tensor]:
    yield from DataLoader(
        SolutionDataset([source.path for source in sources(root)]), BATCH, num_workers=workers
    )


def wbdc_batches(root: Path, threads: int) -> Iterator[Batch]:
    all_sources = sources(root)

    def read_frames(source: Source) -> np.ndarray:
        return decode_frames(read_images(source, FRAMES, Findings()), TRANSFORM, Findings())

    yield from prefetch(
        range(0, VIDEOS, BATCH),
        rows=lambda start: all_sources[start : start + BATCH],
        read=read_frames,
        make=lambda start, frames: collate([""] * BATCH, [[0]] * BATCH, frames),
        threads=threads,
    )


def consume(batches: Callable[[], Iterator]) -> None:
    """Read a value of every batch, so that lazy work is done."""
    for batch in batches():
        getattr(batch, "frames", batch)[0, 0, 0, 0, 0].item()


@pytest.mark.benchmark(group=FIRST_EPOCH, min_rounds=3)
def test_first_epoch_wbdc(benchmark, root):
    benchmark(lambda: consume(lambda: wbdc_batches(root, 2)))


@pytest.mark.benchmark(group=FIRST_EPOCH, min_rounds=3)
def test_first_epoch_solution(benchmark, root):
    benchmark(lambda: consume(lambda: solution_batches(root, 2)))


@pytest.fixture(scope="module")
def views(root, tmp_path_factory) -> dict[str, View]:
    prepared, _ = prepare_data(root, tmp_path_factory.mktemp("work"), WeChat2022(), folds=2)
    reader = TextReader(learn_tokenizer(["标题"] * 2), fields={"title": 8}, length=16)
    return {
        store: open_view(prepared, InputSpec(reader, TRANSFORM, FRAMES), "labeled", store=store)
        for store in ("jpeg", "raw")
    }


@pytest.mark.benchmark(group=LATER_EPOCH, min_rounds=3)
@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_later_epoch_wbdc(benchmark, views, store):
    view = views[store]

    def epoch() -> Iterator:
        for start in range(0, VIDEOS, BATCH):
            videos = [view[row] for row in range(start, start + BATCH)]
            text, frames = [video.text for video in videos], [video.frames for video in videos]
            yield collate([""] * BATCH, text, frames)

    benchmark(lambda: consume(epoch))


@pytest.mark.benchmark(group=LATER_EPOCH, min_rounds=3)
def test_later_epoch_solution(benchmark, root):
    benchmark(lambda: consume(lambda: solution_batches(root, 0)))

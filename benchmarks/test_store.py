"""From archives to batches, in the first epoch and in later ones: ours beside the solutions' way,
in one run. `pytest benchmarks --benchmark-enable -n 0`.
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
from torch.utils.data import DataLoader, Dataset

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.findings import Findings
from wbdc.core.image_transform import ImageTransform
from wbdc.data.archive import read_images
from wbdc.data.frames import decode_frames
from wbdc.data.loader import collate, prefetch
from wbdc.data.text import TextReader, learn_tokenizer
from wbdc.prepare.build import prepare_data
from wbdc.prepare.view import InputSpec, View, open_view

VIDEOS, FRAMES, SIZE, BATCH = 64, 14, 224, 16
LOOK = ImageTransform(
    SIZE, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), short=256
)
FIRST, LATER = "archives to batches, two cores", "a later epoch, one core"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root of 64 videos of 14 frames."""
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


class Solution(Dataset):
    """What public solutions do: open the archive, Pillow, Compose to float32."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.compose = T.Compose(
            [T.Resize(256), T.CenterCrop(SIZE), T.ToTensor(), T.Normalize(LOOK.mean, LOOK.std)]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> torch.Tensor:
        with zipfile.ZipFile(self.paths[at]) as archive:
            return torch.stack(
                [
                    self.compose(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                    for name in archive.namelist()
                ]
            )


def sources(root: Path) -> list:
    return [video.source for video in WeChat2022().videos(root, "labeled", Findings())]


def their_batches(root: Path, workers: int) -> Iterator[torch.Tensor]:
    yield from DataLoader(
        Solution([source.path for source in sources(root)]), BATCH, num_workers=workers
    )


def our_batches(root: Path, threads: int) -> Iterator[torch.Tensor]:
    listed = sources(root)

    def make(start: int) -> object:
        read = [
            decode_frames(read_images(source, FRAMES, Findings()), LOOK, Findings())
            for source in listed[start : start + BATCH]
        ]
        return collate([""] * BATCH, [[0]] * BATCH, read)

    yield from prefetch(iter(range(0, VIDEOS, BATCH)), make, threads)


def used(batches: Callable[[], Iterator]) -> None:
    for batch in batches():
        getattr(batch, "frames", batch)[0, 0, 0, 0, 0].item()


@pytest.mark.benchmark(group=FIRST, min_rounds=3)
def test_first_epoch_ours(benchmark, root):
    benchmark(lambda: used(lambda: our_batches(root, 2)))


@pytest.mark.benchmark(group=FIRST, min_rounds=3)
def test_first_epoch_the_solutions_way(benchmark, root):
    benchmark(lambda: used(lambda: their_batches(root, 2)))


@pytest.fixture(scope="module")
def views(root, tmp_path_factory) -> dict[str, View]:
    prepared, _ = prepare_data(root, tmp_path_factory.mktemp("work"), WeChat2022(), folds=2)
    reader = TextReader(learn_tokenizer(["标题"] * 2), fields={"title": 8}, length=16)
    return {
        store: open_view(prepared, InputSpec(reader, LOOK, FRAMES), "labeled", store=store)
        for store in ("jpeg", "raw")
    }


@pytest.mark.benchmark(group=LATER, min_rounds=3)
@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_later_epochs_ours(benchmark, views, store):
    view = views[store]

    def epoch() -> Iterator:
        for start in range(0, VIDEOS, BATCH):
            text, frames = zip(*(view[row] for row in range(start, start + BATCH)))
            yield collate([""] * BATCH, text, frames)

    benchmark(lambda: used(epoch))


@pytest.mark.benchmark(group=LATER, min_rounds=3)
def test_later_epochs_the_solutions_way(benchmark, root):
    benchmark(lambda: used(lambda: their_batches(root, 0)))

"""What every test may stand on: one thread, a small data root, and the real data where they lie."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # small.py, toys.py

import small

torch.set_num_threads(1)

REAL = Path(os.environ.get("WBDC_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests remember out of the user's cache; each worker has a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the test data that the project does not carry along."""
    if not (REAL / "nasty" / "nasty.json").is_file():
        pytest.skip(f"{REAL} holds no test data; set WBDC_REAL_DATA to run this")
    return REAL


@pytest.fixture
def small_root(tmp_path: Path) -> Path:
    """A tiny data root in the contest's layout: 12 labelled, 4 unlabelled and 4 test videos with
    JPEG archives.
    """
    return small.root(tmp_path / "data")


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: no power is lost here."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start processes and train: a long one that came last would leave
    the other worker idle.
    """
    items.sort(key=lambda item: not {"cli", "submit"} & set(item.path.parts))

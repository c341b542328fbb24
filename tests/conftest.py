"""Fixtures for all tests: one thread, a small data root, and the real data where available."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # small.py, toys.py

import small

REAL = Path(os.environ.get("WBDC_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a cache folder for each worker, and not the cache of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of test data that are not part of the repository."""
    if not (REAL / "nasty" / "nasty.json").is_file():
        pytest.skip(f"{REAL} holds no test data; set WBDC_REAL_DATA to run this")
    return REAL


@pytest.fixture
def small_root(tmp_path: Path) -> Path:
    """A tiny data root in the layout of the contest: 12 labeled, 4 unlabeled and 4 test videos with
    archives of JPEG frames.
    """
    return small.root(tmp_path / "data")


@pytest.fixture(scope="session", autouse=True)
def quick_disk() -> Iterator[None]:
    """Do not wait for the disk, since tests lose no power; a package has 800 files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files without slow tests when only these run: importing all files takes half a
    minute of each worker.
    """
    if config.option.markexpr != "slow" or collection_path.suffix != ".py":
        return None
    return "mark.slow" not in collection_path.read_text() or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that start processes and train first: a long file at the end would leave the
    other workers idle. (pytest-xdist by itself begins with the files of the most tests.)
    """
    items.sort(key=lambda item: not {"cli", "recipes", "submit", "train"} & set(item.path.parts))


def pytest_collection_finish() -> None:
    """Exempt what exists from garbage collection: a pass over all modules and tests takes a second,
    and what handles a lack of memory makes one.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Compute on one thread, also after a test of a command that set others: the threads of several
    workers would wait for each other at every small operation.
    """
    torch.set_num_threads(1)

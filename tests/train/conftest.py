from pathlib import Path

import pytest
import toys
from toys import data, fresh, kit, ready  # noqa: F401


@pytest.fixture(scope="session")
def trained(ready, kit) -> dict:
    """Return the report of training fold 0 of the toy recipe without interruption."""
    return toys.run_json("train", "--kit", kit, "--fold", 0, "--work", ready, "--threads", 1)


@pytest.fixture(scope="session")
def bits(trained) -> dict[str, bytes]:
    """Return the files of that fold."""
    return toys.bits(Path(trained["folder"]))

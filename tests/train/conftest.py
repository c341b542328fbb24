from pathlib import Path

import pytest
import toys
from toys import data, fresh, kit, ready  # noqa: F401


@pytest.fixture(scope="session")
def trained(ready, kit) -> dict:
    """Fold 0 of the toy recipe, trained without a pause: what the command says."""
    return toys.told("train", "--kit", kit, "--fold", 0, "--work", ready, "--threads", 1)


@pytest.fixture(scope="session")
def bits(trained) -> dict[str, bytes]:
    """What a fold leaves behind when nothing happens to it."""
    return toys.bits(Path(trained["folder"]))

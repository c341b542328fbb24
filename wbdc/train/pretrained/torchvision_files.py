"""Download the weights that torchvision lists, from the server of PyTorch."""

import re
from pathlib import Path
from urllib.error import HTTPError, URLError

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.core.weights import TORCHVISION_OWNER
from wbdc.nets.vision.regions import DETECTOR_PREFIX, find_detector_weights
from wbdc.nets.vision.torchvision import find_torchvision_weights
from wbdc.nets.vision.torchvision_video import find_video_weights
from wbdc.train.pretrained.conversion import convert_pickle

FIND_WEIGHTS = {  # by vision plug
    "torchvision": find_torchvision_weights,
    "torchvision_video": find_video_weights,
    "regions": find_detector_weights,
}
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.pth$")  # the start of the file's SHA-256


def find_plug_of_model(model: str) -> str:
    """Return the vision plug that reads a model of torchvision: one for clips, one for detectors,
    and one for images.
    """
    from torchvision import models

    if model in models.list_models(models.video):
        return "torchvision_video"
    return "regions" if model.startswith(DETECTOR_PREFIX) else "torchvision"


def fetch_torchvision(name: str, folder: Path, *, license: str | None = None) -> dict:
    """Download the weights "torchvision/MODEL.WEIGHTS" to a folder and convert them.

    license: for the record; torchvision states none of its weights. Returns the record and
    "folder". Raises UsageFault for unknown names, EnvironmentFault without a network,
    IntegrityFault for a file whose hash is not that in its name.
    """
    from torch.hub import download_url_to_file

    model, dot, weights = name.removeprefix(TORCHVISION_OWNER).rpartition(".")
    if not dot:
        raise UsageFault(
            f"{name} names no weights; names have the form torchvision/MODEL.WEIGHTS, for example "
            "torchvision/shufflenet_v2_x1_0.IMAGENET1K_V1"
        )
    url = FIND_WEIGHTS[find_plug_of_model(model)](model, weights).url
    file = folder / url.rsplit("/", 1)[-1]
    expected = HASH_IN_NAME.search(file.name)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(url, str(file), expected and expected[1], progress=False)
    except (HTTPError, URLError, TimeoutError, ConnectionError) as error:
        raise EnvironmentFault(
            f"{url} cannot be downloaded ({error}); download it on a machine with a network, put "
            f"it into {folder}, and run `wbdc weights convert {folder}`"
        ) from error
    except RuntimeError as error:  # of torch.hub, for another hash
        raise IntegrityFault(f"{url} was not downloaded whole: {error}; try again") from error
    return {**convert_pickle(file, license=license, source=url), "folder": str(folder)}

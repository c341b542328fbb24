"""Download pretrained weights from the Hugging Face hub."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from wbdc.core.errors import EnvironmentFault, UsageFault, WbdcError
from wbdc.core.files import check_writable, explain_os_error
from wbdc.core.weights import PICKLE_SUFFIXES, TORCHVISION_OWNER
from wbdc.train.pretrained.conversion import convert_pickle, write_record

HUB_URL = "https://huggingface.co"
# of one model: the first that the hub has
WEIGHTS_FILES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
SETTINGS_FILES = (
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
NETWORK_ERRORS = ("TransportError", "ConnectionError", "Timeout", "HfHubHTTPError")


def choose_files(names: Sequence[str], hub_name: str) -> list[str]:
    """Return the files to download: one of weights, and those of settings. Raises UsageFault."""
    weights = next((name for name in WEIGHTS_FILES if name in names), None)
    if weights is None:
        raise UsageFault(
            f"{HUB_URL}/{hub_name} has none of {', '.join(WEIGHTS_FILES)}; choose another model, "
            "or put its weights as one safetensors file into the folder of weights"
        )
    return [weights, *(name for name in SETTINGS_FILES if name in names)]


def fetch_weights(
    name: str, root: Path, *, revision: str = "main", license: str | None = None
) -> dict:
    """Download the weights `name` to root/name, convert a pickle, and write the record.

    revision: a branch, a tag or a commit of the hub. license: for the record; None: that of the
    model's page. Returns the record and "folder". Weights called "torchvision/MODEL.WEIGHTS" are
    those of torchvision, which are not on the hub. Raises EnvironmentFault without a network,
    UsageFault for an unknown name.
    """
    from huggingface_hub import HfApi, snapshot_download

    folder = root / name
    check_writable(folder)
    if name.startswith(TORCHVISION_OWNER):
        from wbdc.train.pretrained.torchvision_files import fetch_torchvision  # imports torch

        return fetch_torchvision(name, folder, license=license)
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        info = HfApi(endpoint=endpoint).model_info(name, revision=revision)
        files = choose_files([file.rfilename for file in info.siblings or ()], name)
        snapshot_download(
            name, revision=info.sha, local_dir=folder, allow_patterns=files, endpoint=endpoint
        )
    except Exception as error:  # the classes differ between versions of the hub's client
        raise explain_hub_error(error, name, revision, folder) from error

    file = folder / files[0]
    license = license or (info.card_data.get("license") if info.card_data else None)
    source = f"{HUB_URL}/{name}/tree/{info.sha}"
    finish = convert_pickle if file.suffix in PICKLE_SUFFIXES else write_record
    return {**finish(file, license=license, source=source), "folder": str(folder)}


def explain_hub_error(error: Exception, name: str, revision: str, folder: Path) -> BaseException:
    """Explain a failed download to the user; return the error itself if it is a bug."""
    classes = {kind.__name__ for kind in type(error).__mro__}
    page = f"{HUB_URL}/{name}"
    if isinstance(error, WbdcError):
        return error
    if "GatedRepoError" in classes:
        return EnvironmentFault(f"{page} asks for access; request it there and run `hf auth login`")
    if classes & {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"}:
        return UsageFault(
            f"the hub shows no model {name!r} with the revision {revision!r}; names have the form "
            "OWNER/MODEL, for example hfl/chinese-macbert-base"
        )
    if explained := explain_os_error(error, folder):
        return explained
    if classes & {*NETWORK_ERRORS} or isinstance(error, OSError):
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        command = shlex.join(["wbdc", "weights", "fetch", name, "--weights", "FOLDER"])
        return EnvironmentFault(
            f"{page} cannot be downloaded ({reason}); run `{command}` on a machine with a network, "
            f"and copy its folder to {folder}"
        )
    return error

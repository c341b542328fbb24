"""wbdc weights: list, convert and download pretrained weights."""

from pathlib import Path

import click

from wbdc.cli import console, shared_options

NO_LICENSE = "not recorded"
license_option = click.option(
    "--license", help="License on the publisher's page, for the record, for example apache-2.0."
)


@click.group()
def weights() -> None:
    """List, convert and download pretrained weights.

    Training reads safetensors from a folder of weights (--weights or WBDC_WEIGHTS), or from the
    Hugging Face cache. It opens no pickle, and no network.

    \b
    Example:
      wbdc weights list --weights models
      wbdc weights fetch hfl/chinese-macbert-base --weights models
      wbdc weights convert models/hfl/chinese-macbert-base/pytorch_model.bin
    """


@weights.command("list")
@shared_options.weights_root
@shared_options.as_json
def list_installed(weights: str | None, as_json: bool) -> None:
    """List the weights of this machine, and how a kit names them.

    \b
    Example:
      wbdc weights list --weights models
    """
    from wbdc.train.pretrained.catalogue import list_weights

    installed = list_weights(Path(weights) if weights else None)
    if as_json:
        rows = [
            {
                "name": entry.name,
                "file": str(entry.file),
                "bytes": entry.file.stat().st_size,
                "layout": entry.layout.name,
                "setting": entry.layout.setting,
                "license": entry.license,
            }
            for entry in installed
        ]
        console.print_json({"weights": rows})
        return
    if not installed:
        console.print_text(
            "No weights in "
            + (f"{weights} and " if weights else "")
            + "the Hugging Face cache; `wbdc weights fetch NAME --weights FOLDER` downloads some."
        )
        return
    columns = ("weights", "file", "layout", "license")
    cells = [(e.name, e.file.name, e.layout.name, e.license or NO_LICENSE) for e in installed]
    console.print_table("Pretrained weights", columns, cells)
    for entry in installed:
        console.print_text(f"{entry.name} {entry.file.name}: {entry.layout.setting}")


@weights.command("convert")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@license_option
@click.option("--source", help="Address of the publisher's page, for the record.")
@shared_options.as_json
def convert(path: Path, license: str | None, source: str | None, as_json: bool) -> None:
    """Convert a pickle (.bin, .pt, .pth, .pyth) to safetensors beside it.

    PATH is the file, or its folder. The pickle is read in a process of its own, which builds
    tensors and runs no other code. A record with checksums, source and license is written, which
    the list of weights in a submission uses.

    \b
    Example:
      wbdc weights convert models/hfl/chinese-macbert-base --license apache-2.0
    """
    from wbdc.train.pretrained.conversion import convert_pickle, find_pickle

    file = find_pickle(path)
    record = convert_pickle(file, license=license, source=source)
    _print_record(record, file.parent, as_json)


@weights.command("fetch")
@click.argument("name")
@shared_options.weights_folder
@click.option(
    "--revision", default="main", show_default=True, help="Branch, tag or commit of the hub."
)
@license_option
@shared_options.as_json
def fetch(name: str, weights: str, revision: str, license: str | None, as_json: bool) -> None:
    """Download weights from the Hugging Face hub, or those of torchvision.

    NAME is that of the hub, for example hfl/chinese-macbert-base, or torchvision/MODEL.WEIGHTS. One
    file of weights and the settings beside it are downloaded; a pickle is converted to safetensors.
    HF_ENDPOINT and the token of `hf auth login` are honored.

    \b
    Example:
      wbdc weights fetch hfl/chinese-macbert-base --weights models
      wbdc weights fetch torchvision/shufflenet_v2_x1_0.IMAGENET1K_V1 --weights models
    """
    from wbdc.core.errors import UsageFault
    from wbdc.train.pretrained.download import fetch_weights

    if not weights:
        raise UsageFault("give the folder for the weights with --weights, or set WBDC_WEIGHTS")
    record = fetch_weights(name, Path(weights), revision=revision, license=license)
    _print_record(record, Path(record["folder"]), as_json)


def _print_record(record: dict, folder: Path, as_json: bool) -> None:
    if as_json:
        console.print_json({"folder": str(folder), **record})
        return
    console.print_text(f"{folder / record['file']}: {record['bytes']:,} bytes", "bold")
    for name in ("md5", "sha256", "source", "license"):
        console.print_text(f"{name}: {record[name] or 'not recorded'}")
    if not record["license"]:
        console.print_text("Contests ask for the license: run the command again with --license.")

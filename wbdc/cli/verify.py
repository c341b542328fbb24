"""wbdc verify: is a packed folder, byte for byte, what was packed?"""

from pathlib import Path

import click

from wbdc.cli import console


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@console.as_json
def verify(folders: tuple[Path, ...], as_json: bool) -> None:
    """Compare packed folders with their manifests, and say what their time check found.

    \b
    Example:
      wbdc verify submissions/*
    """
    from wbdc.submit.verify import verify as check

    checked = {str(folder): check(folder) for folder in folders if folder.is_dir()}
    if as_json:
        return console.show(checked)
    for name, facts in checked.items():
        latency = facts["latency"]
        timed = f"time check: {latency['verdict']}" if latency else "no time check yet; run `wbdc submit --check-latency`"
        console.tell(f"{name}: {facts['files']} files, {facts['bytes'] / 1e6:.1f} MB, all as packed; {timed}.")
    if not checked:
        console.tell("No folder to verify.")

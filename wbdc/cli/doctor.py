"""wbdc doctor: what this machine has, and how fast it is."""

from pathlib import Path

import click

from wbdc.cli import console


@click.command()
@click.option(
    "--probe",
    is_flag=True,
    help="Also measure matrix products, memory, copies to the device and JPEG decoding (half a minute).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="With --probe: keep the profile in this file, for `wbdc submit --judge`.",
)
@console.device
@console.threads
@console.as_json
def doctor(probe: bool, out: Path | None, device: str, threads: int | None, as_json: bool) -> None:
    """Say what wbdc finds on this machine.

    A profile that was made on a machine like the judge's lets a time check that runs elsewhere
    speak for it.

    \b
    Example:
      wbdc doctor
      wbdc doctor --probe --out judge.json
    """
    from wbdc.core.errors import UsageFault
    from wbdc.core.files import check_output, publish_json
    from wbdc.submit.timing.machine_profile import profile_machine as measure

    if out and not probe:
        raise UsageFault("--out keeps what --probe measures; say --probe too")
    if out:
        check_output(out)
    found = _machine(device, threads)
    if probe:
        found["profile"] = measure(device, threads)
    if out:
        publish_json(out, found["profile"])
    if as_json:
        return console.print_json(found)
    console.print_table(
        "This machine",
        ("", ""),
        [(name, str(value)) for name, value in found.items() if name != "profile"],
    )
    if probe:
        units = {"matrix": "GFLOP/s", "memory": "GB/s", "copy": "GB/s", "decode": "frames/s"}
        rows = [
            (kernel, ", ".join(f"{rate:,.1f}" for rate in rates), units[kernel])
            for kernel, rates in found["profile"]["rates"].items()
        ]
        console.print_table("Kernels", ("kernel", "rate", ""), rows)


def _machine(device: str, threads: int | None) -> dict:
    import os
    import platform
    import shutil
    from importlib import metadata

    from wbdc.core.device import find_device, find_precision, precision_name
    from wbdc.submit.timing.sandbox import network_is_cut

    where = find_device(device)
    versions = {
        name: metadata.version(name)
        for name in (
            "torch",
            "transformers",
            "open_clip_torch",
            "timm",
            "numpy",
            "simplejpeg",
            "pillow",
            "polars",
        )
    }
    return {
        "python": platform.python_version(),
        **versions,
        "device": str(where),
        "precision": precision_name(find_precision("auto", where)),
        "CPUs": len(os.sched_getaffinity(0)),
        "threads": threads or len(os.sched_getaffinity(0)),
        "network of packed folders": network_is_cut()[1],
        "weights": os.environ.get("WBDC_WEIGHTS") or "WBDC_WEIGHTS is not set",
        "free disk here": f"{shutil.disk_usage('.').free / 1e9:,.0f} GB",
    }

"""wbdc doctor: the software, devices and speed of this machine."""

from pathlib import Path

import click

from wbdc.cli import console, shared_options

REPORTED_PACKAGES = (
    "torch",
    "transformers",
    "open_clip_torch",
    "timm",
    "numpy",
    "simplejpeg",
    "pillow",
    "polars",
)
KERNEL_UNITS = {
    "matrix": "GFLOP/s",
    "memory": "GB/s",
    "copy_to_device": "GB/s",
    "decode": "frames/s",
}


@click.command()
@click.option(
    "--probe",
    is_flag=True,
    help="Also measure matrix products, memory, copies and JPEG decoding (30 s).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="With --probe: write the profile to this file, for `wbdc submit --judge`.",
)
@shared_options.device
@shared_options.threads
@shared_options.as_json
def doctor(probe: bool, out: Path | None, device: str, threads: int | None, as_json: bool) -> None:
    """Report the software, devices and speed of this machine.

    With a profile of a machine like the judge's, a time check on another machine can estimate the
    judge's time.

    \b
    Example:
      wbdc doctor
      wbdc doctor --probe --out judge.json
    """
    from wbdc.core.errors import UsageFault
    from wbdc.core.files import check_output, publish_json
    from wbdc.submit.timing.machine_profile import profile_machine

    if out and not probe:
        raise UsageFault("--out writes the profile that --probe measures; add --probe")
    if out:
        check_output(out)

    facts = machine_facts(device, threads)
    profile = profile_machine(device, threads) if probe else None
    if out:
        publish_json(out, profile)
    if as_json:
        console.print_json({**facts, "profile": profile} if probe else facts)
        return

    console.print_table("This machine", ("", ""), [(k, str(v)) for k, v in facts.items()])
    if profile:
        rows = [
            (kernel, ", ".join(f"{rate:,.1f}" for rate in rates), KERNEL_UNITS[kernel])
            for kernel, rates in profile["rates"].items()
        ]
        console.print_table("Kernels", ("kernel", "rate", "unit"), rows)


def machine_facts(device: str, threads: int | None) -> dict[str, object]:
    """Return the versions of the packages, the device, its precision, and the resources."""
    import os
    import platform
    import shutil
    from importlib import metadata

    from wbdc.core.cpu_quota import available_cpus, explain_quota
    from wbdc.core.device import find_device, find_precision, precision_name
    from wbdc.submit.timing.sandbox import network_is_cut

    torch_device = find_device(device)
    cpus = available_cpus()
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in REPORTED_PACKAGES},
        "device": str(torch_device),
        "precision": precision_name(find_precision("auto", torch_device)),
        "CPUs": cpus,
        "CPU quota": explain_quota() or "limits nothing",
        "threads": threads or cpus,
        "network of packed folders": network_is_cut()[1],
        "weights": os.environ.get("WBDC_WEIGHTS") or "WBDC_WEIGHTS is not set",
        "free disk here": f"{shutil.disk_usage('.').free / 1e9:,.0f} GB",
    }

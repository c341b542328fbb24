"""wbdc doctor: the software, devices and speed of this machine."""

from pathlib import Path

import click

from wbdc.cli import console, shared_options

REPORTED_PACKAGES = (
    "torch",
    "transformers",
    "open_clip_torch",
    "timm",
    "torchvision",
    "numpy",
    "simplejpeg",
    "pillow",
    "polars",
)
OPTIONAL_PACKAGES = {
    "openvino": "pip install 'wbdc[openvino]'",
    "opencv-python-headless": "pip install 'wbdc[flow]'",
    "gensim": "pip install 'wbdc[word2vec]'",
}
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
    judge's time. Where torch cannot be imported, the rest is reported with the reason, and the exit
    code is 7.

    \b
    Example:
      wbdc doctor
      wbdc doctor --probe --out judge.json
    """
    from wbdc.core.errors import EnvironmentFault, UsageFault
    from wbdc.core.files import check_output

    if out and not probe:
        raise UsageFault("--out writes the profile that --probe measures; add --probe")
    if out:
        check_output(out)

    problem = torch_problem()
    facts = package_versions()
    if not problem:
        facts |= device_facts(device)
    facts |= resource_facts(threads)
    profile = _measure_profile(device, threads, out) if probe and not problem else None
    if as_json:
        console.print_json({**facts, "profile": profile} if profile else facts)
    else:
        _print(facts, profile)
    if problem:
        raise EnvironmentFault(problem)


def _measure_profile(device: str, threads: int | None, out: Path | None) -> dict:
    """Return the profile of this machine, and write it to a file, if any."""
    from wbdc.core.files import publish_json
    from wbdc.submit.timing.machine_profile import profile_machine

    profile = profile_machine(device, threads)
    if out:
        publish_json(out, profile)
    return profile


def _print(facts: dict[str, object], profile: dict | None) -> None:
    console.print_table("This machine", ("", ""), [(k, str(v)) for k, v in facts.items()])
    if profile:
        rows = [
            (kernel, ", ".join(f"{rate:,.1f}" for rate in rates), KERNEL_UNITS[kernel])
            for kernel, rates in profile["rates"].items()
        ]
        console.print_table("Kernels", ("kernel", "rate", "unit"), rows)


def package_versions() -> dict[str, object]:
    """Return the versions of Python and of the packages, which are not imported."""
    import platform
    from importlib import metadata

    versions: dict[str, object] = {"python": platform.python_version()}
    for name in (*REPORTED_PACKAGES, *OPTIONAL_PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            advice = OPTIONAL_PACKAGES.get(name)
            versions[name] = f"not installed; {advice}" if advice else "not installed"
    return versions


def torch_problem() -> str | None:
    """Import torch; return why it cannot be imported, and what to do, if so."""
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a library of the driver is missing
        reason = str(error).strip() or type(error).__name__
        return (
            f"torch cannot be imported: {reason.splitlines()[0]}; install it again as"
            " https://pytorch.org describes for this machine"
        )
    return None


def device_facts(device: str) -> dict[str, object]:
    """Return the device of a name and its precision, as torch finds them."""
    from wbdc.core.device import find_device, find_precision, precision_name

    torch_device = find_device(device)
    return {
        "device": str(torch_device),
        "precision": precision_name(find_precision("auto", torch_device)),
    }


def resource_facts(threads: int | None) -> dict[str, object]:
    """Return the CPUs, the network and the disk that `wbdc` may use."""
    import os
    import shutil

    from wbdc.core.cpu_quota import available_cpus, explain_quota
    from wbdc.submit.timing.sandbox import network_is_cut

    cpus = available_cpus()
    return {
        "CPUs": cpus,
        "CPU quota": explain_quota() or "limits nothing",
        "threads": threads or cpus,
        "network of packed folders": network_is_cut()[1],
        "weights": os.environ.get("WBDC_WEIGHTS") or "WBDC_WEIGHTS is not set",
        "free disk here": f"{shutil.disk_usage('.').free / 1e9:,.0f} GB",
    }

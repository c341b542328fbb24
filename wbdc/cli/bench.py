"""wbdc bench: the rate of each stage of serving on this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options
from wbdc.cli.name_completion import KIT_NAME

if TYPE_CHECKING:
    from wbdc.bench.serving_bench import BenchReport
    from wbdc.bench.stage_rate import StageRate

DEFAULT_KIT = "dual_stream"
DEFAULT_FRAMES = 16
STAGE_NAMES = {
    "read": "read archives",
    "decode": "decode JPEG",
    "tokenize": "tokenize",
    "collate": "make batches",
    "copy": "copy to the device",
    "vision": "image tower",
    "text": "text tower",
    "fuse": "fusion and head",
}
OPENVINO_NAMES = {"vision": "image tower, OpenVINO", "score": "text to head, OpenVINO"}
MAX_OTHER_LOAD = 0.1  # of the CPUs
PREFIXED_UNITS = ("B/s", "FLOP/s")
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


@click.command()
@click.option(
    "--kit",
    "kit_name",
    type=KIT_NAME,
    help="Kit whose models are measured, with random weights; by default ViT-B/32, BERT-base and "
    "the fusion of dual_stream.",
)
@click.option("--tiny", is_flag=True, help="Use the kit's [tiny] settings.")
@click.option(
    "--frames",
    type=click.IntRange(1, 32),
    help=f"Frames of each video; by default those of --kit, or {DEFAULT_FRAMES} without it.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Precision of the networks.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Read the first labeled videos of this data folder instead of generated ones.",
)
@shared_options.device
@shared_options.threads
@shared_options.as_json
def bench(
    kit_name: str | None,
    tiny: bool,
    frames: int | None,
    precision: str,
    data: Path | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure each stage of serving on this machine.

    Archives of JPEG frames are generated, read, decoded and classified by networks with random
    weights, through the code that serves. Each stage is compared with a peak of the machine that is
    measured, too. On a CPU, OpenVINO also computes the networks where it is installed. It takes
    about a minute and needs no data and no weights.

    \b
    Example:
      wbdc bench
      wbdc bench --frames 8 --precision fp32 --threads 1
      wbdc bench --kit single_stream --tiny --json
    """
    from wbdc.bench.serving_bench import bench_serving
    from wbdc.core.device import find_device
    from wbdc.train.kit import open_kit

    kit = open_kit(kit_name or DEFAULT_KIT, tiny=tiny)
    if frames is None and kit_name is None and not tiny:
        frames = DEFAULT_FRAMES
    with console.progress(hidden=as_json) as progress:
        report = bench_serving(
            kit,
            find_device(device),
            precision,
            threads,
            frames=frames,
            data=data,
            progress=progress,
        )
    if as_json:
        console.print_json(report_facts(report))
        return
    print_bench_report(report)


def report_facts(report: "BenchReport") -> dict:
    """Return a report as JSON."""
    openvino = report.openvino
    return report._asdict() | {
        "peaks": report.peaks._asdict(),
        "stages": _stage_facts(report.stages),
        "openvino": openvino and openvino._asdict() | {"stages": _stage_facts(openvino.stages)},
    }


def _stage_facts(stages: "list[StageRate]") -> dict[str, dict]:
    return {stage.stage: stage._asdict() for stage in stages}


def print_bench_report(report: "BenchReport") -> None:
    """Print the stages as a table, the peaks that they are compared with, and the bound."""
    machine = report.machine
    rows = _stage_rows(report.stages, STAGE_NAMES)
    if report.openvino:
        rows += _stage_rows(report.openvino.stages, OPENVINO_NAMES)
    console.print_text(
        f"{report.kit}, {report.frames} frames, {report.precision}, batches of {report.batch}; "
        f"{machine['device']}; {machine['processor']}, threads: {machine['threads']}, torch "
        f"{machine['torch']}"
    )
    console.print_table("Stages", ("stage", "videos/s", "rate", "of peak", "runs on"), rows)
    for sentence in _explain(report):
        console.print_text(sentence)


def _stage_rows(stages: "list[StageRate]", names: dict[str, str]) -> list[tuple[str, ...]]:
    return [
        (
            names[stage.stage],
            _three_digits(stage.videos),
            _format_rate(stage.rate, stage.unit),
            console.NO_SCORE if stage.share is None else f"{stage.share:.0%}",
            stage.resource,
        )
        for stage in stages
    ]


def _explain(report: "BenchReport") -> Iterator[str]:
    """Yield the peaks, the slowest stage, the bound and the measured rate of the whole path."""
    peaks = report.peaks
    measured = [
        f"matrix products {_format_rate(peaks.flops, 'FLOP/s')}",
        f"copies in memory {_format_rate(peaks.memory, 'B/s')}",
        f"JPEG entropy decoding {_format_rate(peaks.entropy, 'frames/s')}",
    ]
    if peaks.device_copy:
        measured.append(f"copies to the device {_format_rate(peaks.device_copy, 'B/s')}")
    yield f"Peaks: {', '.join(measured)}."

    slowest = min(report.stages, key=lambda stage: stage.videos)
    yield f"Slowest stage: {STAGE_NAMES[slowest.stage]}, {_three_digits(slowest.videos)} videos/s."
    yield (
        f"Bound: {_three_digits(report.bound)} videos/s, the sum of the stages on the "
        f"{report.bound_by}."
    )
    yield (
        f"Whole path, measured: {_three_digits(report.path)} videos/s, "
        f"{report.path / report.bound:.0%} of the bound."
    )

    if openvino := report.openvino:
        yield openvino.reason or (
            f"OpenVINO computes the networks {openvino.speedup:.2f} times as fast as torch, which "
            f"bounds the whole path at {_three_digits(openvino.bound)} videos/s."
        )
    if report.other_load > MAX_OTHER_LOAD:
        yield (
            f"Other processes used {report.other_load:.0%} of the CPUs meanwhile, so the rates are "
            "too low and do not compare; measure on an idle machine."
        )


def _format_rate(rate: float, unit: str) -> str:
    """Format a rate with three digits; bytes and operations with a prefix, for example 2.5 GB/s."""
    if unit not in PREFIXED_UNITS:
        return f"{_three_digits(rate)} {unit}"
    size, prefix = next((p for p in PREFIXES if rate >= p[0]), PREFIXES[-1])
    return f"{_three_digits(rate / size)} {prefix}{unit}"


def _three_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"

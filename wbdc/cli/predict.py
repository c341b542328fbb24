"""wbdc predict: predict a split with an ensemble or a run."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options

if TYPE_CHECKING:
    from wbdc.competitions import Competition
    from wbdc.serve.blend_file import Blend


@click.command()
@click.option("--split", default="test", show_default=True, help="Split of the data to predict.")
@click.option("--ensemble", default="ensemble", show_default=True, help="Ensemble to predict with.")
@click.option("--run", help="Use one run (the mean of its folds) instead of an ensemble.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of the raw data; by default the folder that was prepared.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="result.csv",
    show_default=True,
    help="Result file to write.",
)
@click.option("--precision", help="auto, fp32, bf16 or fp16; by default the precision of the kit.")
@shared_options.device
@shared_options.threads
@shared_options.verify_files
@shared_options.work
@shared_options.as_json
def predict(
    split: str,
    ensemble: str,
    run: str | None,
    data: Path | None,
    out: Path,
    precision: str | None,
    device: str,
    threads: int | None,
    work: Path,
    as_json: bool,
) -> None:
    """Predict a split from its raw archives, as a submission does.

    \b
    Example:
      wbdc predict --split test --out result.csv
    """
    import contextlib
    import time

    from wbdc.core.files import check_input, check_output, lock_output
    from wbdc.core.ranks import rank_and_size
    from wbdc.prepare.dataset import open_prepared
    from wbdc.serve.entry import ServeOptions, serve

    check_output(out)
    home, blend, contest = _open_blend(work, run, ensemble)
    data = data or Path(open_prepared(work, blend.data).facts.data_folder)
    check_input(data)

    is_first_rank = rank_and_size()[0] == 0
    lock = lock_output(out) if is_first_rank else contextlib.nullcontext()
    log = (lambda sentence: None) if as_json else console.log
    with lock, console.progress(as_json) as progress:
        _, timings = serve(
            home,
            blend,
            contest,
            data,
            out,
            ServeOptions(split=split, device=device, precision=precision, threads=threads),
            log=log,
            progress=lambda done, total: progress("predict", done, total),
            start=time.perf_counter(),
        )

    if not timings:
        return None  # the first rank prints the result
    if as_json:
        return console.print_json({"result": str(out), **timings})
    console.print_text(
        f"{timings['videos']:,} videos predicted in {timings['marks']['written']:.1f} s: {out}"
    )
    return None


def _open_blend(work: Path, run: str | None, ensemble: str) -> "tuple[Path, Blend, Competition]":
    """Open a run, or else an ensemble: (folder of its models, blend, competition)."""
    from wbdc.ensemble.saved_ensembles import open_contest, open_ensemble, run_blend
    from wbdc.train.runs import open_run

    if not run:
        return *open_ensemble(work, ensemble), open_contest(work, ensemble)
    opened_run = open_run(work, run)
    return work, run_blend(work, opened_run), opened_run.contest

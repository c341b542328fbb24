"""A training session: which run, which folds, from which weights; one fold after the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wbdc.core.device import find_device, use_threads
from wbdc.core.errors import UsageFault
from wbdc.core.files import read_json
from wbdc.prepare.dataset import PreparedData, open_prepared
from wbdc.train.kit import Kit
from wbdc.train.run_fold import Hardware, Reporter, open_stage, run_fold
from wbdc.train.runs import ALL_FOLDS, Run, finished_folds, identify_run, list_runs, open_run


@dataclass(frozen=True)
class Session:
    """run; folds asked for, in order; source: the pretrained run whose weights it starts from."""

    run: Run
    folds: list[str]
    kit: Kit
    prepared: PreparedData
    machine: Hardware
    source: Run | None
    note: str = ""  # why a pretrained run that exists is not the one it starts from

    def train(self, telling: Reporter) -> dict[str, dict]:
        """Train every fold that is not finished; return the facts of those asked for. Raises what
        `run_fold` raises.
        """
        if self.note:
            telling.say(self.note)
        return {
            fold: run_fold(
                self.run, fold, self.kit, self.prepared, self.machine, self.source, telling
            )
            for fold in self.folds
        }


def open_session(
    stage: str,
    kit: Kit,
    work: Path,
    *,
    fold: str = ALL_FOLDS,
    seed: int = 0,
    without: str | None = None,
    source: str = "auto",
    prepared: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    save_every: int = 0,
    store: str = "auto",
) -> Session:
    """Resolve what a training command asks for, before anything is computed. Raises UsageFault,
    EnvironmentLacks.
    """
    kit.stage(stage)
    data = open_prepared(work, prepared)
    start = _source(kit, data, work, seed, source) if stage == "train" else None
    machine = Hardware(find_device(device), use_threads(threads), save_every, store)
    run = open_stage(work, stage, kit, data, seed=seed, without=without, source=start)
    note = (
        _passed_over(kit, data, work, seed)
        if (stage, source, start) == ("train", "auto", None)
        else ""
    )
    return Session(run, parse_folds(fold, data.facts.fold_count), kit, data, machine, start, note)


def parse_folds(asked: str, count: int) -> list[str]:
    """Read "0", "0,2", "each" (0..count-1) or "all" (every row). Raises UsageFault."""
    if asked == "each":
        return [str(i) for i in range(count)]
    known = [ALL_FOLDS, *map(str, range(count))]
    parts = [p.strip() for p in asked.split(",")]
    parts = [p if p in known else p.lstrip("0") or p[:1] for p in parts]  # 00 is 0, 01 is 1
    if bad := [p for p in parts if p not in known]:
        shown = ", ".join(p if len(p) <= 20 else f"{p[:20]}…" for p in bad[:5])
        raise UsageFault(
            f"no fold {shown}; the data has folds 0 to {count - 1}, or say each, or all"
        )
    return list(dict.fromkeys(parts))


def _source(kit: Kit, prepared: PreparedData, work: Path, seed: int, asked: str) -> Run | None:
    """Find the pretrained run to start from; "auto" takes the one of this very kit, data and seed,
    when it is finished.
    """
    if asked == "none":
        return None
    if asked != "auto":
        run = open_run(work, asked, "pretrain")
        if ALL_FOLDS not in run.folds():
            raise UsageFault(
                f"pretraining {asked} is not finished; run `wbdc pretrain --kit {run.facts.kit}` again, it goes on"
            )
        return run
    if "pretrain" not in kit.tables:
        return None
    name, _ = identify_run("pretrain", kit, prepared, seed=seed, without=None, source=None)
    folder = work / "runs" / name
    return open_run(work, name, "pretrain") if ALL_FOLDS in finished_folds(folder) else None


def _passed_over(kit: Kit, prepared: PreparedData, work: Path, seed: int) -> str:
    """Say which pretraining of this kit exists and why it is not taken; nothing when there is none."""
    if "pretrain" not in kit.tables:
        return ""
    wanted, facts = identify_run("pretrain", kit, prepared, seed=seed, without=None, source=None)
    runs = [run for run in list_runs(work, "pretrain") if run.facts.kit == kit.name]
    for run in sorted(runs, key=lambda run: run.name != wanted):
        if run.name == wanted:
            return f"starts without pretraining: {run.name} is not finished; run `wbdc pretrain` with the same settings again, it goes on"
        if ALL_FOLDS in run.folds():
            changed = [
                k for k in ("data", "seed") if getattr(run.facts, k) != getattr(facts, k)
            ] + _changed(run, kit)
            changed = changed[:5] + [f"{len(changed) - 5} more settings"] * (len(changed) > 5)
            return (
                f"starts without pretraining: {run.name} differs in: {', '.join(changed) or 'a file that the kit names'}; "
                f"give both commands the same settings, or start from it with --from {run.name}"
            )
    return ""


def _changed(run: Run, kit: Kit) -> list[str]:
    """Name the settings in which a pretrained run differs from a kit."""
    saved = run.fold(ALL_FOLDS) / "kit.json"
    ignored = ("about", "serve", "train")
    then, now = (
        dict(_flat({k: v for k, v in tables.items() if k not in ignored}))
        for tables in (read_json(saved) if saved.is_file() else {}, kit.saved_tables())
    )
    return [
        key
        for key in sorted(then.keys() | now.keys())
        if (key in then, then.get(key)) != (key in now, now.get(key))
    ]


def _flat(table: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value

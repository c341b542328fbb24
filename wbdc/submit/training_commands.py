"""The commands that train the models of a submission again, for its train.sh."""

import shlex
from pathlib import Path, PurePosixPath

from wbdc.competitions import is_contest_file
from wbdc.ensemble.ensemble_settings import format_bands
from wbdc.prepare.corrections import CORRECTIONS_FILE, CORRECTIONS_OPTION
from wbdc.prepare.dataset import PreparedData
from wbdc.prepare.groups import GROUPS_FILE
from wbdc.serve.blend_file import Blend
from wbdc.submit.pack.package import kit_path
from wbdc.submit.reproduced_runs import (
    blend_folds,
    source_kit_path,
    teacher_blend,
    trace_lineage,
)
from wbdc.train.pseudo.pseudo_set import PseudoSet
from wbdc.train.runs import ALL_FOLDS, RunFacts


def list_training_commands(home: Path, blend: Blend, prepared: PreparedData) -> list[str]:
    """List the commands that train the same models from raw data: prepare, pretrain, train,
    ensemble, submit; and those of the teachers of pseudo-labels before their students.
    """
    lines = [_prepare_command(blend, prepared)]
    for step in trace_lineage(home, blend).steps:
        if isinstance(step, PseudoSet):
            lines += _pseudo_commands(step)
        else:
            run, folds = step
            write = _pretrain_command if run.facts.stage == "pretrain" else _train_command
            lines.append(write(run.name, run.facts, folds))
    if not blend.run:
        lines.append(_ensemble_command(blend, blend_folds(blend)))
    return [*lines, _submit_command(blend)]


def _prepare_command(blend: Blend, prepared: PreparedData) -> str:
    facts = prepared.facts
    contest = facts.competition
    if is_contest_file(contest):  # the contest's file lies beside each kit
        kit = PurePosixPath(kit_path(blend.members[0].run))
        contest = shlex.quote(str(kit.with_name(Path(contest).name)))
    tables = {path.name: packed for packed, path in packed_tables(prepared).items()}
    groups = tables.get(GROUPS_FILE, facts.groups)
    options = f" --groups {shlex.quote(groups)}" if groups else ""
    if CORRECTIONS_FILE in tables:
        options += f" {CORRECTIONS_OPTION} {shlex.quote(tables[CORRECTIONS_FILE])}"
    return (
        f'wbdc prepare --data "$DATA" --competition {contest} --folds {facts.fold_count} '
        f'--seed {facts.seed}{options} --work "$WORK"'
    )


def _pretrain_command(run: str, facts: RunFacts, folds: set[str]) -> str:
    fold = f" --fold {','.join(sorted(folds))}" if facts.per_fold else ""
    kit = source_kit_path(run, facts)
    return f'wbdc pretrain --kit {kit} --seed {facts.seed} --work "$WORK"{fold}'


def _pseudo_commands(opened: PseudoSet) -> list[str]:
    """Write the commands that make pseudo-labels again, once their teachers are trained."""
    source = opened.facts["source"]
    words = shlex.split(opened.facts["command"])
    end = words.index("--prepared")  # the data have the same hash, and are the latest
    command = f'{shlex.join(words[:end])} --data "$DATA" --work "$WORK"'
    if source["is_run"]:
        return [command]
    blend = teacher_blend(opened)
    name = f" --name {shlex.quote(source['name'])}"
    return [_ensemble_command(blend, blend_folds(blend)) + name, command]


def _train_command(run: str, facts: RunFacts, folds: set[str]) -> str:
    without = f" --without {facts.without}" if facts.without else ""
    return (
        f'wbdc train --kit {kit_path(run)} --seed {facts.seed} --work "$WORK" '
        f"--fold {','.join(sorted(folds))} --from {facts.source or 'none'}{without}"
    )


def _submit_command(blend: Blend) -> str:
    run = f" --run {blend.run}" if blend.run else ""
    half = " --half" if blend.half else ""
    compiled = " --compile" if blend.compiled else ""
    gpu = "".join(f" --gpu {switch}" for switch in blend.gpu)
    openvino = ""
    if blend.openvino != blend.settings.get("openvino", False):  # else as the ensemble
        openvino = " --openvino" if blend.openvino else " --no-openvino"
    options = f"{half}{compiled}{openvino}{gpu}"
    return f'wbdc submit --work "$WORK"{run} --into "$WORK/submission"{options}'


def _ensemble_command(blend: Blend, trained_folds: dict[str, set[str]]) -> str:
    """Write the command that blends the same members in the same variants.

    trained_folds: {run: folds}.
    """
    options = ""
    settings = blend.settings
    if settings:
        no_priors = "" if settings["class_priors"] else " --no-class-priors"
        options += f" --seed {settings['seed']} --draws {settings['draws']}{no_priors}"
        # what was not used must not be used by chance
        options += f" --mean {settings.get('mean', 'arithmetic')}"
        options += f" --bands {format_bands(settings.get('bands', []))}"
    if settings.get("precision"):
        options += f" --precision {settings['precision']}"
    if settings.get("openvino"):
        options += " --openvino"
    score_folds = settings.get("folds", [])
    common_folds = set.intersection(*trained_folds.values()) - {ALL_FOLDS}
    if score_folds and common_folds != set(score_folds):  # a member that was dropped had fewer
        options += f" --folds {','.join(score_folds)}"

    member_folds: dict[str, list[str]] = {}
    variants: dict[str, dict] = {}
    for member in blend.members:
        member_folds.setdefault(member.run, []).append(member.fold)
        variants.setdefault(member.run, member.serve)
    for run, folds in member_folds.items():
        words = [run, *(f"{key}={value}" for key, value in variants[run].items())]
        if set(folds) != trained_folds[run]:
            words.append(f"fold={folds[0]}")
        options += f" --run '{' '.join(words)}'"
    return f'wbdc ensemble --work "$WORK"{options}'


def packed_tables(prepared: PreparedData) -> dict[str, Path]:
    """Return {path in the package: path} of the tables that the dataset was prepared with: its file
    of groups, and its corrections of labels.
    """
    facts = prepared.facts
    names = [GROUPS_FILE] if facts.groups == GROUPS_FILE else []
    names += [CORRECTIONS_FILE] if facts.corrected_labels else []
    return {f"source/{name}": prepared.folder / name for name in names}

"""Completion of names in a shell: kits, and what a work folder holds."""

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem


class KitName(click.ParamType):
    """The name of a kit, or the path of a kit file."""

    name = "text"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from wbdc.train.kit_files import kit_names

        names = [CompletionItem(name) for name in kit_names() if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


class WorkName(click.ParamType):
    """The name of a folder in the work folder. folders: "runs", "ensembles" or "pseudo"."""

    name = "text"

    def __init__(self, *folders: str):
        self.folders = folders

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        work = Path(ctx.params.get("work") or os.environ.get("WBDC_WORK") or "work")
        names = {path.name for folder in self.folders for path in (work / folder).glob("[!.]*")}
        return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


KIT_NAME = KitName()
RUN_NAME = WorkName("runs")
ENSEMBLE_NAME = WorkName("ensembles")
TEACHER_NAME = WorkName("ensembles", "runs")
REPORT_NAME = WorkName("ensembles", "runs", "sweeps")
PSEUDO_LABELS_NAME = WorkName("pseudo")

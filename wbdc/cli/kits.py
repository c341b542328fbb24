"""wbdc kits: list the recipes, or show one resolved."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from wbdc.cli import console

if TYPE_CHECKING:
    from wbdc.train.kit import Kit


@click.command()
@click.argument("name", required=False)
@click.option("--tiny", is_flag=True, help="With the [tiny] overrides.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Override one setting.")
@console.as_json
def kits(name: str | None, tiny: bool, changes: tuple[str, ...], as_json: bool) -> None:
    """List the kits, or show one with all its plugs and settings.

    \b
    Example:
      wbdc kits
      wbdc kits dual_stream --tiny
    """
    from wbdc.train.kit import kit_names, open_kit

    if name is None:
        listed = {n: open_kit(n).tables.get("about", "") for n in kit_names()}
        return (
            console.print_json(listed)
            if as_json
            else console.print_table("Kits", ("kit", "about"), list(listed.items()))
        )
    kit = open_kit(name, tiny=tiny, changes=changes)
    if as_json:
        return console.print_json(kit.tables)
    for line, style in describe(kit):
        console.print_text(line, style)


def describe(kit: "Kit") -> Iterator[tuple[str, str]]:
    """Yield the lines that show a resolved kit, each with a style: its tables, and what every plug
    does and may be told.
    """
    from wbdc.train.kit_schema import KIT_TABLES, PLUG_FOLDERS

    yield f"{kit.name}: {kit.tables.get('about', '')}", "bold"
    for key in ("competition", *KIT_TABLES):
        table = kit.tables.get(key)
        if not isinstance(table, dict):
            yield from [(f"{key} = {table}", "")] if table else []
            continue
        yield f"[{key}]", "bold"
        for name, value in table.items():
            if name not in ("use", "objective", "trick"):
                yield f"  {name} = {json.dumps(value, ensure_ascii=False)}", ""
        chosen = (
            [(PLUG_FOLDERS[key], table)]
            if "use" in table
            else [(PLUG_FOLDERS[k], t) for k in ("objective", "trick") for t in table.get(k) or []]
        )
        for home, one in chosen:
            yield from _describe(home, one, kit.folder)


def _describe(home: ModuleType, table: dict, folder: Path) -> Iterator[tuple[str, str]]:
    from wbdc.core import plug

    found = plug.find_plug(home, table["use"], folder)
    said = inspect.getdoc(inspect.getmodule(found)) or inspect.getdoc(found) or "no description"
    yield f"  {plug.plug_kind(home)} {table['use']}: {said.splitlines()[0]}", "green"
    for name, parameter in plug.plug_settings(found).items():
        value = table.get(name, None if parameter.default is parameter.empty else parameter.default)
        yield (
            f"    {name} = {json.dumps(value, ensure_ascii=False)}{'' if name in table else '  (default)'}",
            "" if name in table else "dim",
        )

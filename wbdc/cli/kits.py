"""wbdc kits: list the kits, or show one resolved."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options

if TYPE_CHECKING:
    from wbdc.train.kit import Kit


@click.command()
@click.argument("name", required=False)
@click.option("--tiny", is_flag=True, help="Apply the kit's [tiny] overrides.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Override one setting.")
@shared_options.as_json
def kits(name: str | None, tiny: bool, changes: tuple[str, ...], as_json: bool) -> None:
    """List the kits, or show one with all its plugs and settings.

    \b
    Example:
      wbdc kits
      wbdc kits dual_stream --tiny
    """
    if name is None:
        list_kits(as_json)
        return

    from wbdc.train.kit_files import find_kit_file

    find_kit_file(name)  # refuses a wrong name before what resolves a kit is imported
    from wbdc.train.kit import open_kit

    kit = open_kit(name, tiny=tiny, changes=changes, trusts_packaged=True)
    if as_json:
        console.print_json(kit.tables)
        return
    for line, style in describe_kit(kit):
        console.print_text(line, style)


def list_kits(as_json: bool) -> None:
    """Print the kits with what each is about, from their files alone: no plug is imported."""
    from wbdc.train.kit_files import find_kit_file, kit_names, read_kit

    sentences = {kit: str(read_kit(find_kit_file(kit)).get("about", "")) for kit in kit_names()}
    if as_json:
        console.print_json(sentences)
    else:
        console.print_table("Kits", ("kit", "about"), list(sentences.items()))


def describe_kit(kit: "Kit") -> Iterator[tuple[str, str]]:
    """Yield the lines that show a resolved kit, each with a style: its tables, and every plug with
    its description and settings.
    """
    from wbdc.nets.default_head import DEFAULT_HEAD
    from wbdc.train.kit_files import STAGES
    from wbdc.train.kit_schema import (
        KIT_TABLES,
        MODALITY_TABLE,
        PLUG_PACKAGES,
        STAGE_CHOICES,
        STAGE_PLUGS,
        stage_plug_tables,
    )

    has_network = "fusion" in kit.tables
    tables = {"head": DEFAULT_HEAD, **kit.tables} if has_network else kit.tables
    yield f"{kit.name}: {kit.tables.get('about', '')}", "bold"
    for key in ("competition", *KIT_TABLES):
        table = tables.get(key)
        if not isinstance(table, dict):
            if table:
                yield f"{key} = {table}", ""
            continue

        if key == MODALITY_TABLE:
            for name, tower in table.items():
                yield f"[{key}.{name}]", "bold"
                yield from describe_plug(PLUG_PACKAGES[key], tower, kit.folder)
            continue

        yield f"[{key}]", "bold"
        for name, value in table.items():
            if name not in ("use", *STAGE_PLUGS):
                yield f"  {name} = {_json_text(value)}", ""

        if "use" in table:
            yield from describe_plug(PLUG_PACKAGES[key], table, kit.folder)
            continue
        for kind in STAGE_PLUGS if key in STAGES else ():
            default = [STAGE_CHOICES[kind]] if kind in STAGE_CHOICES else []
            for plug_table in stage_plug_tables(table, kind) or default:
                yield from describe_plug(PLUG_PACKAGES[kind], plug_table, kit.folder)


def describe_plug(
    package: str, table: dict, kit_folder: Path, indent: str = "  "
) -> Iterator[tuple[str, str]]:
    """Yield the lines that show a plug: its first sentence, its settings with their values, and the
    plugs that these choose.
    """
    from wbdc.core.plug import plug_settings
    from wbdc.core.plug_source import find_source, import_source, nested_tables

    host = (package, table["use"], kit_folder)
    plug = find_source(*host) or import_source(*host)
    text = plug.description or "no description"
    paragraph = " ".join(text.split("\n\n")[0].split())
    yield f"{indent}{plug.kind} {table['use']}: {paragraph}", "green"

    defaults = {
        name: None if parameter.default is parameter.empty else parameter.default
        for name, parameter in plug_settings(plug.constructor).items()
    }
    nested = nested_tables(plug, defaults | table)
    for name in [name for name in defaults if name not in nested]:
        is_default = name not in table
        value = _json_text(defaults[name] if is_default else table[name])
        note = "  (default)" if is_default else ""
        yield f"{indent}  {name} = {value}{note}", "dim" if is_default else ""
    for inner_package, inner in nested.values():
        yield from describe_plug(inner_package, inner, kit_folder, f"{indent}  ")


def _json_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)

"""wbdc kits: list the recipes, or show one resolved."""

import click

from wbdc.cli import console


@click.command()
@click.argument("name", required=False)
@click.option("--tiny", is_flag=True, help="With the [tiny] overrides.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Override one setting.")
@console.as_json
def kits(name: str | None, tiny: bool, changes: tuple[str, ...], as_json: bool) -> None:
    """List the kits, or show one: resolved, with what every plug does and may be told.

    \b
    Example:
      wbdc kits
      wbdc kits dual_stream --tiny
    """
    from wbdc.train.kit import describe, names, open_kit

    if name is None:
        listed = {n: open_kit(n).tables.get("about", "") for n in names()}
        return console.show(listed) if as_json else console.table("Kits", ("kit", "about"), list(listed.items()))
    kit = open_kit(name, tiny=tiny, changes=changes)
    if as_json:
        return console.show(kit.tables)
    for line, style in describe(kit):
        console.tell(line, style)

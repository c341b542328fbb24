"""Plugs: the signature is the schema, the file name is the name, and invalid settings are refused
with a suggestion.
"""

import ast
import importlib
import sys
from types import SimpleNamespace

import click
import pytest
from parsed_modules import parse_modules

from wbdc import competitions
from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.nets import fusion, heads, pooling, vision
from wbdc.train import losses, objectives, tricks

HOMES = (competitions, fusion, pooling, heads, vision, objectives, losses, tricks)


class Lamp:
    """A contract of one line."""


class Bright(Lamp):
    def __init__(
        self,
        room: object,
        *,
        watts: int,
        color: str = "white",
        dim: float = 0.5,
        on: bool = False,
        hours: list[int] = (),
        plan: dict[str, float] | None = None,
    ): ...


NAMED = """
from lamps import Lamp
class A(Lamp):
    def __init__(self, room, *, layers: int = 1):
        self.told = ("{}", room, layers)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A plug folder with two files of its own."""
    folder = tmp_path / "lamps"
    folder.mkdir()
    (folder / "__init__.py").write_text("class Lamp: ...\nPlug = Lamp\n")
    for name in ("dual_stream", "single_stream"):
        (folder / f"{name}.py").write_text(NAMED.format(name))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("lamps")
    for name in [m for m in sys.modules if m.split(".")[0] == "lamps"]:
        del sys.modules[name]


def refused(settings: dict) -> str:
    with pytest.raises(UsageFault) as caught:
        plug.check_settings("lamp 'bright'", Bright, settings)
    assert caught.value.code == 2
    return str(caught.value)


def test_settings_that_fit(home):
    plug.check_settings("lamp", Bright, {"watts": 3})
    plug.check_settings(
        "lamp",
        Bright,
        {"watts": 3, "color": "red", "dim": 1, "on": True, "hours": [1], "plan": {"a": 1.0}},
    )
    plug.check_settings("lamp", Bright, {"watts": 3, "dim": 0.1, "plan": None})
    assert plug.build_plug(home, {"use": "dual_stream", "layers": 3}, "hall").told == (
        "dual_stream",
        "hall",
        3,
    )
    assert plug.build_plug(home, {"use": "single_stream"}, "hall").told == (
        "single_stream",
        "hall",
        1,
    )


def test_unknown_names_get_a_suggestion(home):
    with pytest.raises(
        UsageFault, match="^no lamp called 'dual_steam'; did you mean 'dual_stream'\\?$"
    ):
        plug.build_plug(home, {"use": "dual_steam"}, None)
    with pytest.raises(
        UsageFault, match="^no lamp called 'xyz'; it may be one of: dual_stream, single_stream$"
    ):
        plug.build_plug(home, {"use": "xyz"}, None)
    with pytest.raises(
        UsageFault, match="^lamp 'dual_stream' has no setting 'layer'; did you mean 'layers'\\?$"
    ):
        plug.build_plug(home, {"use": "dual_stream", "layer": 2}, None)


@pytest.mark.parametrize("use", [None, 3, ["dual_stream"]])
def test_a_table_without_a_name_lists_the_names(home, use):
    with pytest.raises(
        UsageFault, match="lamp needs `use = ...`; one of: dual_stream, single_stream"
    ):
        plug.build_plug(home, {"use": use} if use else {})


def test_positional_parameters_are_not_settings(home):
    assert refused({"watts": 1, "room": "hall"}).startswith("lamp 'bright' has no setting 'room'")
    assert refused({}) == "lamp 'bright' needs a value for 'watts'"


WRONG = {
    "on": ["False", 0, 1],
    "watts": [2.5, True, "3"],
    "dim": ["0.5", True],
    "color": [3],
    "hours": ["12"],
    "plan": [[1], 0],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_trap_14_a_value_of_another_type_is_refused(name, value):
    """ "False" is true for bool(), so nothing is ever converted."""
    assert refused({"watts": 1, name: value}).startswith(
        f"lamp 'bright': {name} = {value!r} is not of the type"
    )


LATE = """
from __future__ import annotations
from lamps import Lamp
class Late(Lamp):
    def __init__(self, room, *, on: bool = False):
        self.on = on
"""
TWO = LATE + "class Later(Lamp): ..."


def test_a_plug_beside_the_kit(home, tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    assert (
        plug.build_plug(home, {"use": "./late.py", "on": True}, "hall", kit_folder=tmp_path).on
        is True
    )
    assert (
        plug.plug_name(plug.build_plug(home, {"use": "./late.py"}, "hall", kit_folder=tmp_path))
        == "late"
    )
    with pytest.raises(UsageFault, match="^no lamp at .*later.py; put the file beside the kit$"):
        plug.build_plug(home, {"use": "./later.py"}, "hall", kit_folder=tmp_path)


def test_trap_14_holds_for_annotations_that_are_text(home, tmp_path):
    """`from __future__ import annotations` turns every annotation into a string."""
    (tmp_path / "late.py").write_text(LATE)
    with pytest.raises(UsageFault, match="on = 'False' is not of the type bool"):
        plug.build_plug(home, {"use": "./late.py", "on": "False"}, "hall", kit_folder=tmp_path)


@pytest.mark.parametrize(
    ("content", "count"),
    [(TWO, 2), ("import lamps", 0), ("from lamps import Lamp\nfrom lamps.dual_stream import A", 0)],
)
def test_a_file_defines_exactly_one_plug(home, tmp_path, content, count):
    (tmp_path / "late.py").write_text(content)
    with pytest.raises(UsageFault, match=f"late.py must define exactly one Lamp, found {count}$"):
        plug.find_plug(home, "./late.py", tmp_path)


@pytest.mark.parametrize(
    ("home", "name"),
    [(h, n) for h in HOMES for n in plug.plug_names(h)],
    ids=lambda x: x if isinstance(x, str) else plug.plug_kind(x),
)
def test_every_plug_is_one_class_whose_settings_are_typed_and_described(home, name):
    plug_class = plug.find_plug(home, name)
    untyped = [n for n, p in plug.plug_settings(plug_class).items() if p.annotation is p.empty]
    assert not untyped, (
        f"{plug.plug_kind(home)} {name!r}: {', '.join(untyped)} has no type, so that the values of "
        "kits are not checked"
    )
    assert importlib.import_module(plug_class.__module__).__doc__, (
        f"{plug_class.__module__} opens with a sentence that says what it does"
    )


def test_trap_14_no_option_of_the_command_line_is_a_bool_with_a_value():
    """`--flag False` would be true under `type=bool` of argparse; under click only real flags are
    clear.
    """
    from wbdc.cli import main

    def walk(command: click.Command, name: str):
        yield from ((name, p) for p in command.params)
        if isinstance(command, click.Group):
            for inner in command.list_commands(click.Context(command)):
                yield from walk(
                    command.get_command(click.Context(command), inner), f"{name} {inner}"
                )

    options = list(walk(main, "wbdc"))
    assert len(options) > 20
    assert not [
        (name, p.name)
        for name, p in options
        if isinstance(p.type, click.types.BoolParamType) and not getattr(p, "is_flag", False)
    ]


def test_trap_14_no_type_bool_anywhere():
    for name, tree in parse_modules(r"\btype\s*="):
        for node in ast.walk(tree):
            requested = (
                {k.arg: ast.unparse(k.value) for k in node.keywords}
                if isinstance(node, ast.Call)
                else {}
            )
            assert requested.get("type") not in ("bool", "click.BOOL"), (
                f"{name}: {ast.unparse(node)}"
            )


def test_kinds_are_named_in_the_singular():
    assert [plug.plug_kind(h) for h in HOMES] == [
        "competition",
        "fusion",
        "pooling",
        "head",
        "vision",
        "objective",
        "loss",
        "trick",
    ]
    assert plug.plug_kind(SimpleNamespace(Plug=Lamp)) == "lamp"


def test_a_file_is_read_anew_each_time_and_no_bytecode_is_left_beside_it(
    home, tmp_path, monkeypatch
):
    import os

    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    plug_folder = tmp_path / "own"
    plug_folder.mkdir()
    for watts in (1, 2):
        (plug_folder / "a.py").write_text(
            f"from lamps import Lamp\nclass A(Lamp):\n    watts = {watts}\n"
        )
        os.utime(plug_folder / "a.py", (1, 1))  # bytecode is taken for current by size and time
        assert plug.find_plug(home, "./a.py", plug_folder).watts == watts
    assert [p.name for p in plug_folder.iterdir()] == ["a.py"]

"""Every command has help with an example, starts fast, reports errors in one line, and has JSON
output.
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
import toys
from click.testing import CliRunner

from wbdc import STOPPED_MESSAGE
from wbdc.cli import main
from wbdc.core import errors

NAMES = main.list_commands(None)
COMMANDS: dict[str, click.Command] = {}  # those of a group by two words: "recipe run"
for name in NAMES:
    command = main.get_command(None, name)
    inner = getattr(command, "commands", {})
    COMMANDS |= {f"{name} {word}": one for word, one in inner.items()} or {name: command}
every_command = pytest.mark.parametrize("name", COMMANDS)
HEAVY_MODULES = ("torch", "transformers", "polars", "rich", "sklearn", "numpy", "open_clip", "timm")


@every_command
def test_help_shows_an_example(name):
    result = toys.wbdc(*name.split(), "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.startswith(f"Usage: main {name}")
    text = COMMANDS[name].help
    assert text.splitlines()[0].endswith((".", ";", ":")) or text.splitlines()[1] == "", (
        "the first line is a sentence"
    )
    example = text.split("Example:")[1]
    assert re.search(rf"^ +wbdc {name}\b", example, re.MULTILINE), "an example that can be copied"
    assert COMMANDS[name].name == name.split()[-1]
    assert name.split()[0] in toys.wbdc("--help").stdout


@every_command
def test_options_of_examples_exist(name):
    for line in re.findall(r"wbdc (.*)", COMMANDS[name].help.split("Example:")[1]):
        command = max((c for c in COMMANDS if f"{line} ".startswith(f"{c} ")), key=len)
        known_options = {o for p in COMMANDS[command].params for o in p.opts}
        assert set(re.findall(r" (--[a-z-]+)", line)) <= known_options


@every_command
def test_every_option_has_help(name):
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"wbdc {name} {parameter.opts[0]} has no help"


@every_command
def test_every_command_has_json_output(name):
    assert "--json" in {o for p in COMMANDS[name].params for o in p.opts}


@every_command
def test_unknown_option_is_a_usage_fault(name):
    result = toys.wbdc(*name.split(), "--no-such-option")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "No such option" in result.stderr


def test_help_imports_no_torch():
    lines = [["--help"], *([name, "--help"] for name in NAMES)]
    code = f"""
import sys
from wbdc.cli import main
for words in {lines}:
    try:
        main(words)
    except SystemExit:
        imported = [name for name in {HEAVY_MODULES} if name in sys.modules]
        assert not imported, f"{{words}} imports {{imported}}"
print("end of", len({lines}), "commands")
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == f"end of {len(lines)} commands"


def test_version_and_python_m():
    result = toys.wbdc("--version")
    assert result.exit_code == 0
    assert __import__("wbdc").__version__ in result.stdout
    process = subprocess.run(
        [sys.executable, "-m", "wbdc", "--version"], capture_output=True, text=True, check=True
    )
    assert process.stdout.split()[-1] == result.stdout.split()[-1]


def test_summaries_fit_80_columns():
    result = CliRunner().invoke(main, ["--help"], env={"COLUMNS": "80"}, terminal_width=80)
    summaries = result.stdout.split("Commands:")[1].strip()
    assert len(summaries.splitlines()) == len(NAMES)
    assert "..." not in summaries


ERRORS = [
    c
    for c in vars(errors).values()
    if isinstance(c, type) and issubclass(c, errors.WbdcError) and c is not errors.WbdcError
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda c: c.__name__)
def test_error_is_one_line_on_stderr_with_its_exit_code(error, monkeypatch):
    @click.command("kits")
    def broken() -> None:
        raise error("no [bold]path[/bold] here; give another")

    monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: broken)
    result = toys.wbdc("kits")
    assert result.exit_code == error.code
    assert result.stdout == ""
    assert result.stderr == "no [bold]path[/bold] here; give another\n"


def test_exit_codes_are_unique_and_documented():
    codes = {c.__name__: c.code for c in ERRORS}
    assert sorted(codes.values()) == list(range(2, 13))
    documented = main.help[main.help.index("Exit codes") :]
    assert all(re.search(rf"\b{code}\s", documented) for code in range(13))


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [(KeyboardInterrupt(), 11, "run the same command again"), (MemoryError(), 9, "memory ran out")],
)
def test_interrupt_and_out_of_memory_are_explained(raised, code, message, monkeypatch):
    @click.command("kits")
    def broken() -> None:
        raise raised

    monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: broken)
    result = toys.wbdc("kits")
    assert result.exit_code == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("a worker died"), STOPPED_MESSAGE),
        (errors.Stopped("stopped after step 3"), "stopped after step 3"),
    ],
)
def test_failure_after_a_stop_signal_is_reported_as_stopped(error, message, monkeypatch):
    @click.command("kits")
    def broken() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: broken)
    result = toys.wbdc("kits")
    assert result.exit_code == 11
    assert result.stderr == f"{message}\n"


def test_bug_keeps_its_traceback(monkeypatch):
    @click.command("kits")
    def broken() -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: broken)
    result = toys.wbdc("kits")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["xyz"], "no command 'xyz'; it may be one of: demo, init, prepare"),
        (["repport"], "no command 'repport'; did you mean 'report'?"),
    ],
)
def test_unknown_command_gets_a_hint(words, message):
    result = toys.wbdc(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["kits", "train", "pretrain"])
def test_unknown_kit_gets_a_hint(command):
    words = (
        ["kits", "dual_steam"]
        if command == "kits"
        else [command, "--kit", "dual_steam", *(["--fold", 0] if command == "train" else [])]
    )
    result = toys.wbdc(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "no kit called 'dual_steam'; did you mean 'dual_stream'?\n"


@pytest.mark.parametrize(
    "environment",
    [{"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "xterm-256color"}, {}],
)
def test_no_escape_codes_without_terminal_or_with_no_color(environment):
    for words in (["kits"], ["kits", "dual_stream"], ["kits", "nothing"], ["--help"]):
        result = CliRunner().invoke(main, words, env=environment)
        assert not re.search(r"\x1b\[[39]", result.output), words


def test_invalid_utf8_does_not_break_the_console(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "wbdc", b"\xff"],
        capture_output=True,
        env={"PYTHONUTF8": "1", "PATH": "/usr/bin"},
        cwd=tmp_path,
    )
    assert process.returncode == 2
    assert b"Traceback" not in process.stderr


README = Path(__file__).parents[2] / "README.md"


def test_readme_mentions_every_command():
    text = README.read_text()
    if "Commands" not in text:
        pytest.skip('README.md has no "Commands" heading yet')
    assert [name for name in NAMES if f"wbdc {name}" not in text] == []


def test_commands_in_the_readme_exist():
    text = README.read_text()
    named = set(re.findall(r"^wbdc ([a-z]+)|`wbdc ([a-z]+)", text, re.MULTILINE))
    assert {a or b for a, b in named} <= set(NAMES)


def test_kits_json_equals_the_kit_that_training_reads():
    from wbdc.train.kit import open_kit

    listed = json.loads(toys.wbdc("kits", "--json").stdout)
    assert {"single_stream", "dual_stream", "cross_attention"} <= set(listed)
    for name in listed:
        assert toys.run_json("kits", name, "--tiny") == json.loads(
            json.dumps(open_kit(name, tiny=True).tables)
        )

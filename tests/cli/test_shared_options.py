"""--threads: auto is the default, and the CPU quota that limits it is logged."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from wbdc.cli import shared_options
from wbdc.core import cpu_quota


@click.command()
@shared_options.threads
@shared_options.as_json
def command(threads: int | None, as_json: bool) -> None:
    click.echo(f"threads={threads}")


@pytest.fixture
def _quota_of_two_cpus(monkeypatch):
    quota = cpu_quota.CpuQuota(2.0, Path("/sys/fs/cgroup/cpu.max"))
    monkeypatch.setattr(cpu_quota, "read_quota", lambda process: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)))


@pytest.mark.usefixtures("_quota_of_two_cpus")
@pytest.mark.parametrize(
    ("words", "explains"),
    [([], True), (["--threads", "auto"], True), (["--threads", "8"], False), (["--json"], False)],
)
def test_a_quota_that_limits_the_threads_is_logged(words, explains):
    result = CliRunner().invoke(command, words)
    assert result.stdout == f"threads={8 if '8' in words else None}\n"
    sentence = "uses 2 of 64 visible CPUs, because /sys/fs/cgroup/cpu.max limits"
    assert (sentence in result.stderr) == explains


@pytest.mark.parametrize("value", ["0", "many", "AUTO"])
def test_other_words_are_no_number_of_threads(value):
    result = CliRunner().invoke(command, ["--threads", value])
    assert result.exit_code == 2
    assert "--threads" in result.stderr

"""The lock: the closure of the installed packages, and the hashes in pip's report."""

import hashlib
import json
from pathlib import Path

import pytest

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.submit.pack import lock as locks
from wbdc.submit.pack.lock import dependency_closure, download_wheels, lock_requirements

INSTALLED = {  # name: version, then its requirements
    "Top_Level": (
        "1.0",
        "middle>=2",
        'elsewhere; sys_platform == "nowhere"',
        'fast; extra == "speed"',
        "torchy",
    ),
    "middle": ("2.5", "leaf[wide]", "top-level"),  # a cycle
    "leaf": ("0.1", 'broad; extra == "wide"', 'never; extra == "deep"'),
    "broad": ("3.0rc1",),
    "fast": ("4.0",),
    "torchy": ("2.6.0+cu124",),
    "strict": ("1.0", "middle<2"),
    "lonely": ("1.0", "absent>=1"),
}


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    for name, (version, *needs) in INSTALLED.items():
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            "\n".join(
                [
                    f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
                    *(f"Requires-Dist: {n}" for n in needs),
                ]
            )
            + "\n"
        )
    monkeypatch.syspath_prepend(tmp_path / "site")


def item(name: str, version: str, **info) -> dict:
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"url": "https://x", **info},
    }


def archive(digest: str) -> dict:
    return {"archive_info": {"hashes": {"sha256": digest, "md5": "0"}}}


def answer_pip(monkeypatch, *items: dict, version: str = "1") -> list:
    """Replace pip: it returns these items. Returns the list of its calls."""
    calls = []
    monkeypatch.setattr(
        locks,
        "_run_pip",
        lambda *arguments: (
            calls.append(arguments) or json.dumps({"version": version, "install": items})
        ),
    )
    return calls


def test_the_closure_follows_requirements_markers_cycles_and_required_extras():
    closure = dependency_closure(["top.level==1.0"])
    assert [(d.name, d.version) for d in closure] == [
        ("broad", "3.0rc1"),
        ("leaf", "0.1"),
        ("middle", "2.5"),
        ("Top_Level", "1.0"),
        ("torchy", "2.6.0+cu124"),
    ]
    assert {d.name: d.needs for d in closure} == {
        "broad": (),
        "leaf": ("broad",),
        "middle": ("leaf", "top-level"),
        "Top_Level": ("middle", "torchy"),
        "torchy": (),
    }
    assert [d.name for d in dependency_closure(["Top_Level[speed]"])] == [
        "broad",
        "fast",
        "leaf",
        "middle",
        "Top_Level",
        "torchy",
    ]
    assert [d.name for d in dependency_closure(["leaf"])] == ["leaf"]
    assert [d.name for d in dependency_closure(["leaf", "leaf[wide]"])] == ["broad", "leaf"]


def test_the_closure_does_not_depend_on_the_order_of_names():
    names = ["leaf", "leaf[wide]", "Top_Level[speed]", "torchy==2.6.0"]
    assert dependency_closure(names) == dependency_closure(names[::-1])
    assert dependency_closure([]) == []


@pytest.mark.parametrize(
    ("names", "fault", "says"),
    [
        (["lonely"], EnvironmentFault, "lonely needs absent>=1, which is not installed"),
        (["strict"], EnvironmentFault, "strict needs middle<2, but 2.5 is installed"),
        (["middle", "strict"], EnvironmentFault, "strict needs middle<2"),
        (["strict", "middle"], EnvironmentFault, "strict needs middle<2"),
        (
            ["torchy==2.5.0"],
            EnvironmentFault,
            "the submission needs torchy==2.5.0, but 2.6.0\\+cu124 is installed",
        ),
        (["middle --hash=sha256:0"], UsageFault, "not a requirement"),
    ],
)
def test_missing_and_conflicting_packages_are_named(names, fault, says):
    with pytest.raises(fault, match=says):
        dependency_closure(names)


def test_a_lock_has_one_hashed_line_per_package_in_a_fixed_order(
    monkeypatch,
):
    items = [
        item("middle", "2.5", **archive("c" * 64)),
        item("torchy", "2.6.0+cu124", **archive("e" * 64)),
        item("Leaf", "0.1", **archive("b" * 64)),
    ]
    items += [
        item("top-level", "1.0", **archive("d" * 64)),
        item("broad", "3.0rc1", **archive("a" * 64)),
    ]
    calls = answer_pip(monkeypatch, *items)
    text = lock_requirements(
        "# pinned\nTop_Level==1.0\n\ntorchy==2.6.0  # from an index of its own\n"
    )
    names = [
        ("broad", "3.0rc1", "a"),
        ("leaf", "0.1", "b"),
        ("middle", "2.5", "c"),
        ("Top_Level", "1.0", "d"),
        ("torchy", "2.6.0+cu124", "e"),
    ]
    assert text == "".join(
        f"{name}=={version} --hash=sha256:{letter * 64}\n" for name, version, letter in names
    )
    assert calls[0][0] == "install"
    assert calls[0][-5:] == tuple(f"{name}=={version}" for name, version, _ in names)
    assert {"--dry-run", "--ignore-installed", "--no-deps", "--report"} <= set(calls[0])
    answer_pip(monkeypatch, *items[::-1])
    assert lock_requirements("torchy==2.6.0\nTop_Level==1.0\n") == text


@pytest.mark.parametrize(
    "info",
    [
        {"archive_info": {}},
        {"archive_info": {"hashes": {"md5": "0"}}},
        {"dir_info": {"editable": True}},
    ],
)
def test_a_wheel_without_a_sha256_is_refused(monkeypatch, info):
    answer_pip(monkeypatch, item("torchy", "2.6.0+cu124", **info))
    with pytest.raises(EnvironmentFault, match="no wheel with a SHA-256 for torchy"):
        lock_requirements("torchy==2.6.0")


def test_a_report_of_another_version_or_with_gaps_is_refused(
    monkeypatch,
):
    calls = answer_pip(monkeypatch, version="2")
    assert lock_requirements("# nothing\n") == ""
    assert not calls
    with pytest.raises(EnvironmentFault, match="report has version 2"):
        lock_requirements("broad")
    answer_pip(monkeypatch)
    with pytest.raises(EnvironmentFault, match="for broad"):
        lock_requirements("broad")


def fake_python(path: Path, code: int, says: str) -> str:
    path.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def test_a_failure_of_pip_becomes_one_sentence(tmp_path, monkeypatch):
    def use(python: str) -> None:
        monkeypatch.setattr(locks.sys, "executable", python)

    offline = fake_python(
        tmp_path / "offline",
        1,
        "WARNING: Retrying\n"
        "ERROR: No matching distribution found for broad==3.0rc1\n"
        "[notice] new pip",
    )
    use(offline)
    with pytest.raises(
        EnvironmentFault,
        match=r"\(No matching distribution found for broad==3.0rc1\); connect to the network",
    ):
        lock_requirements("broad")
    use(fake_python(tmp_path / "mute", 1, ""))
    with pytest.raises(EnvironmentFault, match="no message"):
        lock_requirements("broad")
    use(str(tmp_path / "none"))
    with pytest.raises(EnvironmentFault, match="cannot be run"):
        lock_requirements("broad")
    forged = fake_python(
        tmp_path / "forged",
        1,
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n Got 00",
    )
    (tmp_path / "lock").write_text(f"broad==3.0rc1 --hash=sha256:{'a' * 64}\n")
    use(forged)
    with pytest.raises(IntegrityFault, match="hash differs from the lock"):
        download_wheels(tmp_path / "lock", tmp_path / "wheels")


def test_wheels_are_downloaded_by_hash_into_an_empty_folder(tmp_path, monkeypatch):
    into, file = tmp_path / "wheels", tmp_path / "requirements.lock"
    file.write_text(f"broad==3.0rc1 --hash=sha256:{hashlib.sha256(b'wheel').hexdigest()}\n")
    calls = []

    def pip(*arguments: str) -> str:
        calls.append(arguments)
        into.mkdir(exist_ok=True)
        (into / "broad.whl").write_bytes(b"wheel")
        return ""

    monkeypatch.setattr(locks, "_run_pip", pip)
    assert download_wheels(file, into) == download_wheels(file, into) == [into / "broad.whl"]
    assert calls[0][:3] == ("download", "--require-hashes", "--no-deps")
    assert calls[0][-4:] == ("-d", str(into), "-r", str(file))
    (into / "stale.whl").write_bytes(b"another")
    with pytest.raises(UsageFault, match=r"lock does not list: stale\.whl"):
        download_wheels(file, into)
    assert len(calls) == 2


@pytest.mark.parametrize("text", [None, "", "broad==3.0rc1\n"])
def test_a_lock_without_hashes_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "lock").write_text(text)
    with pytest.raises(UsageFault, match="holds no hash"):
        download_wheels(tmp_path / "lock", tmp_path / "wheels")

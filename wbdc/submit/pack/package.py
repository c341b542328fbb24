"""Pack finished models, and the floors that serve them, into a folder that runs alone."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import wbdc
from wbdc.competitions import CONTEST_FOLDER, Competition
from wbdc.core.errors import IntegrityBroken, UsageFault
from wbdc.core.files import (
    SEAL_FILE,
    check_writable,
    file_sha256,
    publish_bytes,
    publish_file,
    publish_json,
    read_json,
    read_seal,
)
from wbdc.core.folders import publish_folder
from wbdc.core.integrity import verify_seal
from wbdc.serve.blend_file import Blend, BlendMember, write_blend
from wbdc.serve.predict import MODEL_FILE, TOKENIZER_FILE, WEIGHTS_FILE, read_model
from wbdc.submit.check.manifest import MANIFEST, write_manifest
from wbdc.submit.pack import scripts
from wbdc.submit.pack.lock import download_wheels, lock_requirements
from wbdc.submit.pack.provenance import provenance_table, weights_provenance
from wbdc.submit.pack.readme import write_readme
from wbdc.submit.pack.requirements import all_requirements, needed_requirements
from wbdc.submit.pack.sbom import bill_of_materials
from wbdc.submit.pack.secrets import refuse_secrets
from wbdc.submit.pack.shared_towers import share_towers
from wbdc.train.kit import PACKAGED

SHIPPED_FOLDERS = ("core", "competitions", "data", "nets", "serve")  # below the shipping line
CODE = (".py", ".json", ".toml", ".html", ".css", ".js")  # all that the source of wbdc consists of
KIT, LOCK = "kit.json", "requirements.lock"
NEEDED = (WEIGHTS_FILE, MODEL_FILE, TOKENIZER_FILE)


class PackedMember(NamedTuple):
    """A model to pack. name: "dual_stream-1f3694da/fold-0"; folder: of the finished fold; weight: 0
    or more; serve: frames and length, where others than learned from.
    """

    name: str
    folder: Path
    weight: float
    serve: dict = {}


def kit_file(name: str) -> str:
    """Say where the kit of a member lies in the package, as `retrain` commands call it: they run in
    the package's folder.

    The file keeps the kit's own name, so that training with it makes a run of the same name as
    before.
    """
    run = PurePosixPath(name).parts[0]
    return f"source/kits/{run}/{run.rsplit('-', 1)[0]}.json"


def pack_submission(
    into: Path,
    members: Sequence[PackedMember],
    *,
    contest: Competition,
    precision: str,
    facts: dict,
    retrain: Sequence[str],
    optional: Collection[str] = (),
    class_multipliers: Sequence[float] = (),
    kits: dict[str, Path] | None = None,
    half: bool = False,
    compiled: bool = False,
    locked: bool = False,
    wheelhouse: bool = False,
    report: dict | None = None,
    check: Callable[[Path], None] = lambda folder: None,
) -> dict:
    """Make the folder `into` that runs alone, and return its manifest. Equal inputs give equal
    bytes.

    Only named files are copied (FLOORS, NEEDED, kits and their plugs, the contest's file), so
    nothing else can slip in. facts: what the README tells.
    optional: packages that only these data ask for, such as a reader of video files. retrain: shell
    lines that train everything again, with
    `wbdc`, "$DATA" and "$WORK". kits: of pretrained runs, {where in the package: fold}. class_multipliers: one
    per class. half: weights as float16. compiled: towers by torch.compile. report: facts for
    machines. locked, wheelhouse: also write requirements.lock with hashes, and download its wheels,
    which asks a package index. check: tries the finished folder before it is published; when it
    raises, nothing is. An earlier package is replaced, anything else never.
    Raises UsageFault for members that do not fit, a folder that is not ours or files that look like
    secrets, IntegrityBroken for a damaged fold.
    """
    competition = contest.name
    with publish_folder(into) as making:
        _check(into, members)
        told = [_add_member(making, member) for member in members]
        share_towers(making, [making / "models" / member.name for member in members], half=half)
        for place, folder in (kits or {}).items():
            _add_kit(making / place, folder)
        code = _add_code(making, [read_model(m.folder) for m in members], optional)
        contest.save(making / CONTEST_FOLDER)
        blend = Blend(
            competition,
            precision,
            tuple(BlendMember(f"models/{m.name}", m.weight, m.serve) for m in members),
            class_multipliers=tuple(class_multipliers),
            half=half,
            compiled=compiled,
        )
        write_blend(making, blend)
        _add_scripts(making, contest.judge_paths, retrain)
        needed = needed_requirements(
            [*code, *making.glob("models/**/*.py"), *making.glob(f"{CONTEST_FOLDER}/*.py")],
            optional,
        )
        _text(making / "requirements.txt", needed)
        if locked:
            _text(making / LOCK, lock_requirements(needed))
        if wheelhouse:
            download_wheels(making / LOCK, making / "wheels")
        entries = _tell_origins(making, needed, told)
        publish_json(making / "report.json", {**facts, "report": report or {}})
        _text(
            making / "README.md",
            write_readme(
                making,
                competition=competition,
                precision=precision,
                judge=contest.judge_paths,
                members=told,
                facts=facts,
                ledger=provenance_table(entries),
            ),
        )
        refuse_secrets(making)
        manifest = write_manifest(
            making,
            {
                "competition": competition,
                "precision": precision,
                "members": [m.name for m in members],
            },
        )
        check(making)
    return manifest


def _tell_origins(making: Path, needed: str, told: list[dict]) -> list[dict]:
    """Write weights.json, the ledger of pretrained weights, and sbom.json, the bill of materials;
    return the ledger.
    """
    entries = [
        entry
        for member in told
        for entry in weights_provenance(member["weights"] | member["pretrained"])
    ]
    distinct = list({json.dumps(entry, sort_keys=True): entry for entry in entries}.values())
    models = [{"name": member["name"], "sha256": member["sha256"]} for member in told]
    models += [
        {k: entry[k] for k in ("name", "sha256", "licence", "link")}
        for entry in distinct
        if entry["sha256"]
    ]
    publish_json(making / "weights.json", distinct)
    publish_json(
        making / "sbom.json", bill_of_materials(needed.splitlines(), files={}, models=models)
    )
    return distinct


def check_submission_folder(into: Path) -> None:
    """Refuse a folder that cannot be packed into. Raises UsageFault, or EnvironmentLacks where
    nothing can be written.
    """
    if os.path.exists(into) and not (into / MANIFEST).is_file():
        raise UsageFault(f"{into} exists and is no submission of wbdc; choose another name")
    check_writable(into)


def _check(into: Path, members: Sequence[PackedMember]) -> None:
    """Refuse what cannot be packed, before anything is written."""
    check_submission_folder(into)
    names = [m.name for m in members]
    if not members or len(set(names)) < len(names):
        raise UsageFault(
            f"a submission takes one or more members, each once; got {', '.join(names) or 'none'}"
        )
    for name, folder, weight, _ in members:
        if not name or any(
            part in ("", ".", "..") or part.startswith("/") for part in name.split("/")
        ):
            raise UsageFault(f"{name!r} cannot be the name of a member")
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageFault(f"member {name} has weight {weight}; weights are 0 or more")
        if not (folder / SEAL_FILE).is_file():
            raise UsageFault(f"{folder} is not finished; run the same `wbdc train` command again")
        verify_seal(folder)
        if absent := [n for n in NEEDED if not (folder / n).is_file()]:
            raise IntegrityBroken(f"{folder} lacks {', '.join(absent)}")
    if sum(m.weight for m in members) <= 0:
        raise UsageFault("the members' weights sum to 0; give one of them a say")


def _add_member(making: Path, member: PackedMember) -> dict:
    """Copy a model, and its kit for training it again; return what the README tells of it."""
    model, home = read_model(member.folder), making / "models" / member.name
    kit = member.folder / KIT
    for name in [*NEEDED, *([KIT] if kit.is_file() else []), *_plugs(model["blueprint"])]:
        _copy(member.folder / name, home / name)
    if kit.is_file():
        _add_kit(making / kit_file(member.name), member.folder)
    facts = read_seal(member.folder, {"weights?": {str: str}, "pretrained?": {str: dict}})
    told = {
        "kit": kit_file(member.name) if kit.is_file() else None,
        "weights": facts.get("weights", {}),
        "pretrained": facts.get("pretrained", {}),
    }
    told["sha256"] = file_sha256(home / WEIGHTS_FILE)  # as the run left it
    return {"name": member.name, "weight": member.weight, **told}


def _add_kit(file: Path, folder: Path) -> None:
    """Copy the kit that a fold was trained with, and its plugs beside it, once for all folds of a
    run.
    """
    verify_seal(folder, (KIT,))
    tables = read_json(folder / KIT)
    own = {Path(tables["competition"]).name} if tables["competition"].endswith(".py") else set()
    names = sorted({*own, *_plugs(tables)})
    verify_seal(folder, names)
    for name in names:
        if (file.parent / name).is_file() and file_sha256(file.parent / name) != file_sha256(
            folder / name
        ):
            raise IntegrityBroken(
                f"{folder / name} differs between the folds of one run; train them again with one plug"
            )
        _copy(folder / name, file.parent / name)
    if not file.is_file():  # folds of one run may differ in [serve] alone
        _copy(folder / KIT, file)


def _plugs(table: object) -> list[str]:
    """Name the plug files, "./late.py", that a blueprint or a kit uses, wherever in it."""
    inner = (
        table.values()
        if isinstance(table, dict)
        else table
        if isinstance(table, (list, tuple))
        else ()
    )
    own = (
        [Path(table["use"]).name]
        if isinstance(table, dict) and str(table.get("use", "")).endswith(".py")
        else []
    )
    return sorted({*own, *(name for value in inner for name in _plugs(value))})


def _add_code(making: Path, models: list[dict], optional: Collection[str]) -> list[Path]:
    """Copy the floors that serve, and the whole of wbdc as `source/`. Return the served files that
    these models load.
    """
    home = Path(wbdc.__file__).parent
    looks = {m["blueprint"]["vision"]["use"] for m in models}
    loaded = []
    for path in (p for folder in PACKAGED for p in _code(folder)):
        _copy(path, making / "source" / "wbdc" / "kits" / path.name)
    for path in _code(home):
        inner = path.relative_to(home)
        if inner.parts[0] == "kits":  # only an installed wbdc has them inside; copied above
            continue
        _copy(path, making / "source" / "wbdc" / inner)
        if inner.parts[0] in (*SHIPPED_FOLDERS, "__init__.py"):
            _copy(path, making / "wbdc" / inner)
            tower = inner.parts[:2] == ("nets", "vision") and inner.stem != "__init__"
            if path.suffix == ".py" and (not tower or inner.stem in looks):
                loaded.append(path)
    _text(making / "source" / "requirements.txt", all_requirements(optional))
    return loaded


def source_files() -> dict[str, str]:
    """Return {path: SHA-256} of the source of wbdc, kits included, wherever it is installed."""
    home = Path(wbdc.__file__).parent
    found = {f"kits/{p.name}": file_sha256(p) for folder in PACKAGED for p in _code(folder)}
    return found | {p.relative_to(home).as_posix(): file_sha256(p) for p in _code(home)}


def _code(home: Path) -> Iterator[Path]:
    for path in sorted(home.rglob("*")):
        hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(home).parts)
        if path.is_file() and not path.is_symlink() and path.suffix in CODE and not hidden:
            yield path


def _add_scripts(making: Path, judge: dict[str, str], retrain: Sequence[str]) -> None:
    folder, version = (
        str(PurePosixPath(judge["result"]).parent),
        ".".join(map(str, sys.version_info[:2])),
    )
    _text(making / "main.py", scripts.MAIN)
    _text(
        making / "Dockerfile",
        scripts.fill(scripts.DOCKERFILE, data=judge["data"], folder=folder, python=version),
    )
    commands = (
        "\n".join(retrain)
        or 'echo "error: this package was made without the commands that train it" >&2; exit 2'
    )
    for name, script in (
        ("run", scripts.RUN),
        ("inference", scripts.INFERENCE),
        ("init", scripts.INIT),
        ("train", scripts.TRAIN),
    ):
        path = making / f"{name}.sh"
        _text(
            path,
            scripts.fill(script, data=judge["data"], result=judge["result"], commands=commands),
        )
        mode = path.stat().st_mode
        path.chmod(mode | (mode & 0o444) >> 2)  # whoever may read it may run it


def _copy(source: Path, to: Path) -> None:
    publish_file(to, lambda temporary: shutil.copyfile(source, temporary))


def _text(path: Path, text: str) -> None:
    publish_bytes(path, text.encode())

"""Pack finished models, with the code that serves them, into a folder that runs on its own."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import wbdc
from wbdc.competitions import CONTEST_FOLDER, Competition, JudgePaths, is_contest_file
from wbdc.core.errors import IntegrityFault, UsageFault
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
from wbdc.serve.member_files import WEIGHTS_FILE
from wbdc.serve.members import find_member_class, read_model
from wbdc.submit.check.manifest import MANIFEST_FILE, REPORT_FILE, write_manifest
from wbdc.submit.pack import scripts
from wbdc.submit.pack.lock import download_wheels, lock_requirements
from wbdc.submit.pack.provenance import provenance_table, weights_provenance
from wbdc.submit.pack.readme import package_readme
from wbdc.submit.pack.requirements import (
    all_requirements,
    flow_packages,
    needed_requirements,
    training_packages,
)
from wbdc.submit.pack.sbom import bill_of_materials
from wbdc.submit.pack.secrets import refuse_secrets
from wbdc.submit.pack.shared_towers import share_towers
from wbdc.train.kit_files import KIT_FILE, PACKAGED_KIT_FOLDERS

SHIPPED_FOLDERS = ("core", "competitions", "data", "nets", "serve")  # all that inference needs
SOURCE_SUFFIXES = (".py", ".json", ".toml", ".html", ".css", ".js")  # of the source of wbdc
REQUIREMENTS_LOCK = "requirements.lock"
OPTIONAL_TOWERS = {"pytorchvideo"}  # plugs and packages of one name that only some kits need


class PackedMember(NamedTuple):
    """A model to pack.

    name: for example "dual_stream-1f3694da/fold-0". folder: the finished fold. weight: 0 or more.
    serve: number of frames and text length, where they differ from those of training.
    class_weights: as in BlendMember.
    """

    name: str
    folder: Path
    weight: float
    serve: dict = {}
    class_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class PackOptions:
    """The content of a package, apart from its members.

    facts: what README.md states, {name: value or table}. report: further facts for report.json.
    training_commands: shell lines for train.sh, which may use `wbdc`, "$DATA" and "$WORK".
    source_kits: kits of pretrained runs, {path in the package: folder of the fold}.
    source_files: further files that train.sh needs, {path in the package: path}.
    optional_packages: Python packages that only some data need, for example a video decoder.
    sharpness: of a geometric mean, or 0. class_multipliers: one factor per class, or none.
    half: store weights as float16. compiled: run networks through torch.compile. openvino: let
    OpenVINO compute them. gpu: of GPU_SWITCHES. lock: write requirements.lock, with hashes from a
    package index. wheels: download the locked packages into the folder; needs `lock`.
    """

    contest: Competition
    precision: str
    facts: dict
    training_commands: Sequence[str]
    report: dict = field(default_factory=dict)
    source_kits: dict[str, Path] = field(default_factory=dict)
    source_files: dict[str, Path] = field(default_factory=dict)
    optional_packages: Collection[str] = ()
    sharpness: float = 0.0
    class_multipliers: Sequence[float] = ()
    half: bool = False
    compiled: bool = False
    openvino: bool = False
    gpu: tuple[str, ...] = ()
    lock: bool = False
    wheels: bool = False


def kit_path(member: str) -> str:
    """Return the path of a member's kit in the package; train.sh runs in that folder.

    The file keeps the name of the kit, so that training with it creates a run of the same name.
    """
    run = PurePosixPath(member).parts[0]
    return f"source/kits/{run}/{run.rsplit('-', 1)[0]}.json"


def pack_submission(
    into: Path,
    members: Sequence[PackedMember],
    options: PackOptions,
    check: Callable[[Path], None] = lambda folder: None,
) -> dict:
    """Create the folder `into`, which runs on its own, and return its manifest.

    Equal inputs give equal bytes. Only listed files are copied (SHIPPED_FOLDERS, those of members,
    kits with their plugs, the contest's file). An earlier package is replaced; any other folder is
    refused. check: called with the finished folder before it is published; if it raises, nothing
    is published.

    Raises UsageFault for members that cannot be packed, a folder that is not a package and files
    that look like secrets; IntegrityFault for a damaged fold.
    """
    contest = options.contest
    with publish_folder(into) as folder:
        _check_members(into, members)
        models = [read_model(member.folder) for member in members]
        optional = [*options.optional_packages, *flow_packages(models)]
        options = replace(options, optional_packages=optional)
        member_facts = _add_members(folder, members, options)
        code = _add_code(folder, models, options)
        contest.save(folder / CONTEST_FOLDER)
        _add_blend(folder, members, options)
        _add_scripts(folder, contest.judge_paths, options.training_commands)

        requirements = _add_requirements(folder, code, options)
        entries = _write_provenance(folder, requirements, member_facts)
        _write_reports(folder, member_facts, entries, options)

        refuse_secrets(folder)
        summary = {
            "competition": contest.name,
            "precision": options.precision,
            "members": [m.name for m in members],
        }
        manifest = write_manifest(folder, summary)
        check(folder)
    return manifest


def check_submission_folder(into: Path) -> None:
    """Refuse a folder that cannot be packed into.

    Raises UsageFault for an existing folder that is not a package, EnvironmentFault for a path
    that cannot be written.
    """
    if os.path.exists(into) and not (into / MANIFEST_FILE).is_file():
        raise UsageFault(f"{into} exists and is not a submission of wbdc; choose another name")
    check_writable(into)


def source_hashes() -> dict[str, str]:
    """Return {path: SHA-256} of the source of wbdc, kits included, wherever it is installed."""
    home = Path(wbdc.__file__).parent
    kits = {
        f"kits/{p.relative_to(kits).as_posix()}": file_sha256(p)
        for kits in PACKAGED_KIT_FOLDERS
        for p in _source_files(kits)
    }
    code = {p.relative_to(home).as_posix(): file_sha256(p) for p in _source_files(home)}
    return kits | code


def _check_members(into: Path, members: Sequence[PackedMember]) -> None:
    """Refuse what cannot be packed, before anything is written."""
    check_submission_folder(into)
    names = [m.name for m in members]
    if not members or len(set(names)) < len(names):
        raise UsageFault(
            f"a submission takes one or more members, each once; got {', '.join(names) or 'none'}"
        )

    for member in members:
        _check_member(member)
    if sum(m.weight for m in members) <= 0:
        raise UsageFault("the members' weights sum to 0; give at least one a weight above 0")


def _check_member(member: PackedMember) -> None:
    name, folder, weight, *_ = member
    if not name or any(part in ("", ".", "..") for part in name.split("/")):
        raise UsageFault(f"{name!r} cannot be the name of a member; use <run>/fold-<number>")
    if not (math.isfinite(weight) and weight >= 0):
        raise UsageFault(f"member {name} has weight {weight}; a weight is 0 or more")
    if not (folder / SEAL_FILE).is_file():
        raise UsageFault(f"{folder} is not finished; run the same `wbdc train` command again")

    verify_seal(folder)
    if missing := [name for name in _member_files(folder) if not (folder / name).is_file()]:
        raise IntegrityFault(f"{folder} lacks {', '.join(missing)}; train this fold again")


def _add_members(folder: Path, members: Sequence[PackedMember], options: PackOptions) -> list[dict]:
    """Copy the models and the kits that trained them; return what README.md states of each."""
    member_facts = [_add_member(folder, member) for member in members]
    network_folders = [
        folder / "models" / member.name
        for member in members
        if find_member_class(read_model(member.folder), member.folder).is_network
    ]
    share_towers(folder, network_folders, half=options.half)
    for path, fold in options.source_kits.items():
        _add_kit(folder / path, fold)
    for path, file in options.source_files.items():
        _copy_file(file, folder / path)

    return member_facts


def _add_member(folder: Path, member: PackedMember) -> dict:
    """Copy a model, and its kit for training it again; return what README.md states of it."""
    model = read_model(member.folder)
    home = folder / "models" / member.name
    has_kit = (member.folder / KIT_FILE).is_file()
    kit_files = [KIT_FILE] if has_kit else []
    plug_files = _plug_files(model.get("blueprint", {}))
    for name in [*_member_files(member.folder), *kit_files, *plug_files]:
        _copy_file(member.folder / name, home / name)
    if has_kit:
        _add_kit(folder / kit_path(member.name), member.folder)

    seal = read_seal(member.folder, {"weights?": {str: str}, "pretrained?": {str: dict}})
    return {
        "name": member.name,
        "weight": member.weight,
        "kit": kit_path(member.name) if has_kit else None,
        "weights": seal.get("weights", {}),
        "pretrained": seal.get("pretrained", {}),
        "sha256": file_sha256(home / WEIGHTS_FILE),  # as trained, before towers are shared
    }


def _member_files(folder: Path) -> tuple[str, ...]:
    """List the files that rebuild the model of a fold. Raises IntegrityFault."""
    return find_member_class(read_model(folder), folder).files


def _add_kit(file: Path, folder: Path) -> None:
    """Copy the kit of a fold and the plugs beside it, once for all folds of a run."""
    verify_seal(folder, (KIT_FILE,))
    tables = read_json(folder / KIT_FILE)
    contest = tables["competition"]
    contest_files = {Path(contest).name} if is_contest_file(contest) else set()
    names = sorted({*contest_files, *_plug_files(tables)})
    verify_seal(folder, names)

    for name in names:
        copy = file.parent / name
        if copy.is_file() and file_sha256(copy) != file_sha256(folder / name):
            raise IntegrityFault(
                f"{folder / name} differs between the folds of one run; "
                "train them again with one plug"
            )
        _copy_file(folder / name, copy)
    if not file.is_file():  # folds of one run may differ in [serve] alone
        _copy_file(folder / KIT_FILE, file)


def _plug_files(table: object) -> list[str]:
    """List the plug files, for example "late.py", that a blueprint or a kit uses at any depth."""
    if isinstance(table, dict):
        use = str(table.get("use", ""))
        names = {Path(use).name} if use.endswith(".py") else set()
        inner = table.values()
    else:
        names = set()
        inner = table if isinstance(table, (list, tuple)) else ()

    return sorted(names.union(*map(_plug_files, inner)))


def _used_plugs(table: dict) -> set[str]:
    """Return the names of a plug and of those that its settings choose."""
    inner = [_used_plugs(value) for value in table.values() if isinstance(value, dict)]
    return {str(table["use"])}.union(*inner) if "use" in table else set().union(*inner)


def _add_code(folder: Path, models: list[dict], options: PackOptions) -> list[Path]:
    """Copy the folders that serve, and all of wbdc as `source/`.

    Returns the files of the first that these models import.
    """
    home = Path(wbdc.__file__).parent
    towers = [m.get("blueprint", m).get("vision", {}) for m in models]
    vision_plugs = {use for tower in towers for use in _used_plugs(tower)}
    imported = []
    for kits in PACKAGED_KIT_FOLDERS:
        for path in _source_files(kits):
            _copy_file(path, folder / "source" / "wbdc" / "kits" / path.relative_to(kits))

    for path in _source_files(home):
        inner = path.relative_to(home)
        if inner.parts[0] == "kits":  # only in an installed wbdc; copied above
            continue
        _copy_file(path, folder / "source" / "wbdc" / inner)
        if inner.parts[0] not in (*SHIPPED_FOLDERS, "__init__.py"):
            continue
        _copy_file(path, folder / "wbdc" / inner)
        is_tower = inner.parts[:2] == ("nets", "vision") and inner.stem != "__init__"
        if path.suffix == ".py" and (not is_tower or inner.stem in vision_plugs):
            imported.append(path)

    optional = {*options.optional_packages, *(vision_plugs & OPTIONAL_TOWERS)}
    requirements = all_requirements(optional | training_packages(models))
    _write_text(folder / "source" / "requirements.txt", requirements)
    return imported


def _source_files(home: Path) -> Iterator[Path]:
    for path in sorted(home.rglob("*")):
        inner = path.relative_to(home)
        is_hidden = any(part.startswith((".", "__pycache__")) for part in inner.parts)
        is_source = path.is_file() and not path.is_symlink() and path.suffix in SOURCE_SUFFIXES
        if is_source and not is_hidden:
            yield path


def _add_blend(folder: Path, members: Sequence[PackedMember], options: PackOptions) -> None:
    """Write blend.json: the members, their weights and how main.py serves them."""
    blend = Blend(
        competition=options.contest.name,
        precision=options.precision,
        members=tuple(
            BlendMember(f"models/{m.name}", m.weight, m.serve, class_weights=m.class_weights)
            for m in members
        ),
        sharpness=options.sharpness,
        class_multipliers=tuple(options.class_multipliers),
        half=options.half,
        compiled=options.compiled,
        openvino=options.openvino,
        gpu=options.gpu,
    )
    write_blend(folder, blend)


def _add_scripts(folder: Path, judge: JudgePaths, training_commands: Sequence[str]) -> None:
    """Write main.py, the shell scripts and the Dockerfile. judge: the contest's paths."""
    _write_text(folder / "main.py", scripts.MAIN)
    dockerfile = scripts.fill(
        scripts.DOCKERFILE,
        data=judge.data,
        folder=str(PurePosixPath(judge.result).parent),
        python=".".join(map(str, sys.version_info[:2])),
    )
    _write_text(folder / "Dockerfile", dockerfile)

    commands = "\n".join(training_commands) or scripts.NO_TRAINING
    for name, script in (
        ("run", scripts.RUN),
        ("inference", scripts.INFERENCE),
        ("init", scripts.INIT),
        ("train", scripts.TRAIN),
    ):
        path = folder / f"{name}.sh"
        text = scripts.fill(script, data=judge.data, result=judge.result, commands=commands)
        _write_text(path, text)
        mode = path.stat().st_mode
        path.chmod(mode | (mode & 0o444) >> 2)  # executable for everyone who may read it


def _add_requirements(folder: Path, code: Sequence[Path], options: PackOptions) -> str:
    """Write requirements.txt, and the lock and the wheels if requested; return its text."""
    plugs = [*folder.glob("models/**/*.py"), *folder.glob(f"{CONTEST_FOLDER}/*.py")]
    requirements = needed_requirements([*code, *plugs], options.optional_packages)
    _write_text(folder / "requirements.txt", requirements)
    if options.lock:
        _write_text(folder / REQUIREMENTS_LOCK, lock_requirements(requirements))
    if options.wheels:
        download_wheels(folder / REQUIREMENTS_LOCK, folder / "wheels")

    return requirements


def _write_provenance(folder: Path, requirements: str, member_facts: list[dict]) -> list[dict]:
    """Write weights.json (pretrained weights) and sbom.json (bill of materials).

    Returns the entries of weights.json.
    """
    entries = [
        entry
        for member in member_facts
        for entry in weights_provenance(member["weights"] | member["pretrained"])
    ]
    distinct = list({json.dumps(entry, sort_keys=True): entry for entry in entries}.values())
    models = [{"name": member["name"], "sha256": member["sha256"]} for member in member_facts]
    models += [
        {key: entry[key] for key in ("name", "sha256", "license", "link")}
        for entry in distinct
        if entry["sha256"]
    ]
    publish_json(folder / "weights.json", distinct)
    publish_json(folder / "sbom.json", bill_of_materials(requirements.splitlines(), models))
    return distinct


def _write_reports(
    folder: Path, member_facts: list[dict], entries: list[dict], options: PackOptions
) -> None:
    """Write report.json for programs and README.md for people."""
    publish_json(folder / REPORT_FILE, {**options.facts, "report": options.report})
    text = package_readme(
        folder,
        competition=options.contest.name,
        precision=options.precision,
        judge=options.contest.judge_paths,
        members=member_facts,
        facts=options.facts,
        provenance=provenance_table(entries),
    )
    _write_text(folder / "README.md", text)


def _copy_file(source: Path, to: Path) -> None:
    publish_file(to, lambda temporary: shutil.copyfile(source, temporary))


def _write_text(path: Path, text: str) -> None:
    publish_bytes(path, text.encode())

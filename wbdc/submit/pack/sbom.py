"""The software bill of materials: every package, file and model of a submission with version,
license and hash (CycloneDX 1.5, ECMA-424).
"""

import json
import uuid
from collections.abc import Collection
from importlib import metadata

from packaging.utils import canonicalize_name

from wbdc.core.errors import UsageFault
from wbdc.submit.pack.lock import Distribution, dependency_closure

SHORT = 80  # characters; a longer "License" holds the whole text
UNSAID = ("unknown", "")


def bill_of_materials(names: Collection[str], models: list[dict]) -> dict:
    """List what a submission consists of, as a CycloneDX 1.5 document without a time: equal
    contents give equal documents.

    names: requirements, whose `closure` is listed. files: path -> SHA-256. models: {"name",
    "sha256", and perhaps "license", "link"}, such as the entries of
    `ledger`. Raises what `closure` does, UsageFault for a model that is given twice.
    """
    packages = dependency_closure(names)
    components = [
        *map(_package, packages),
        *map(_model, sorted(models, key=_reference)),
    ]
    references = [c["bom-ref"] for c in components]
    if twice := sorted({r for r in references if references.count(r) > 1}):
        raise UsageFault(
            f"the bill of materials would name {', '.join(twice)} more than once; give each a name of its own"
        )
    place = {canonicalize_name(d.name): _purl(d) for d in packages}
    needs = [{"ref": _purl(d), "dependsOn": [place[n] for n in d.needs]} for d in packages]
    said = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": components,
        "dependencies": needs,
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(said, ensure_ascii=True, sort_keys=True))
    return {**said, "serialNumber": f"urn:uuid:{serial}"}


def _package(package: Distribution) -> dict:
    told = {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "purl": _purl(package),
    }
    licenses = _licenses(metadata.metadata(package.name))
    return {**told, "licenses": licenses} if licenses else told


def _purl(package: Distribution) -> str:
    """Write a package URL (package-url/purl-spec, type pypi); the "+" of a local version is escaped
    there.
    """
    return f"pkg:pypi/{canonicalize_name(package.name)}@{package.version.replace('+', '%2B')}"


def _licenses(facts: metadata.PackageMetadata) -> list[dict]:
    """Read a license from License-Expression (PEP 639), else from the classifiers, else from
    License when that is short.
    """
    if expression := facts.get("License-Expression"):
        return [{"expression": expression}]
    classified = [
        c.split(" :: ")[-1]
        for c in facts.get_all("Classifier") or []
        if c.startswith("License :: ")
    ]
    free = (facts.get("License") or "").strip()
    said = classified or [free] * (
        free.lower() not in UNSAID and len(free) <= SHORT and "\n" not in free
    )
    return [{"license": {"name": name}} for name in sorted(set(said))]


def _model(model: dict) -> dict:
    told = {"type": "machine-learning-model", "bom-ref": _reference(model), "name": model["name"]}
    if model.get("sha256"):
        told["hashes"] = _hashes(model["sha256"])
    if model.get("license"):
        told["licenses"] = [{"license": {"name": model["license"]}}]
    if model.get("link"):
        told["externalReferences"] = [{"type": "distribution", "url": model["link"]}]
    return told


def _reference(model: dict) -> str:
    """Tell files of one publisher apart, which share a name."""
    return f"model:{model['name']}@{model.get('sha256') or ''}"


def _hashes(digest: str) -> list[dict]:
    return [{"alg": "SHA-256", "content": digest}]

"""The software bill of materials: every package and model of a submission with version, license and
hash (CycloneDX 1.5, ECMA-424).
"""

import json
import uuid
from collections.abc import Collection
from importlib import metadata

from packaging.utils import canonicalize_name

from wbdc.core.errors import UsageFault
from wbdc.submit.pack.lock import Distribution, dependency_closure

MAX_LICENSE_CHARACTERS = 80  # a longer "License" field holds the text of the license
UNSTATED_LICENSES = ("unknown", "")


def bill_of_materials(names: Collection[str], models: list[dict]) -> dict:
    """Return a CycloneDX 1.5 document without a time: equal contents give equal documents.

    names: requirements, which are listed with everything that they require. models: {"name",
    "sha256" and optionally "license", "link"}, for example the entries of `weights_provenance`.

    Raises what `dependency_closure` raises, UsageFault for a model that is listed twice.
    """
    packages = dependency_closure(names)
    components = [
        *map(_package_component, packages),
        *map(_model_component, sorted(models, key=_model_reference)),
    ]
    references = [component["bom-ref"] for component in components]
    if repeated := sorted({name for name in references if references.count(name) > 1}):
        raise UsageFault(
            f"the bill of materials would list {', '.join(repeated)} more than once; "
            "give each a different name"
        )

    urls = {canonicalize_name(package.name): _package_url(package) for package in packages}
    dependencies = [
        {"ref": _package_url(package), "dependsOn": [urls[name] for name in package.needs]}
        for package in packages
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": components,
        "dependencies": dependencies,
    }
    content = json.dumps(document, ensure_ascii=True, sort_keys=True)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, content)
    return {**document, "serialNumber": f"urn:uuid:{serial}"}


def _package_component(package: Distribution) -> dict:
    component = {
        "type": "library",
        "bom-ref": _package_url(package),
        "name": package.name,
        "version": package.version,
        "purl": _package_url(package),
    }
    licenses = _licenses(metadata.metadata(package.name))
    return {**component, "licenses": licenses} if licenses else component


def _package_url(package: Distribution) -> str:
    """Return a package URL (package-url/purl-spec, type pypi), in which "+" is escaped."""
    return f"pkg:pypi/{canonicalize_name(package.name)}@{package.version.replace('+', '%2B')}"


def _licenses(package: metadata.PackageMetadata) -> list[dict]:
    """Read the license from License-Expression (PEP 639), else from the classifiers, else from
    License when that is short.
    """
    if expression := package.get("License-Expression"):
        return [{"expression": expression}]
    names = [
        classifier.split(" :: ")[-1]
        for classifier in package.get_all("Classifier") or []
        if classifier.startswith("License :: ")
    ]
    if not names:
        text = (package.get("License") or "").strip()
        is_name = len(text) <= MAX_LICENSE_CHARACTERS and "\n" not in text
        names = [text] if is_name and text.lower() not in UNSTATED_LICENSES else []
    return [{"license": {"name": name}} for name in sorted(set(names))]


def _model_component(model: dict) -> dict:
    component = {
        "type": "machine-learning-model",
        "bom-ref": _model_reference(model),
        "name": model["name"],
    }
    if model.get("sha256"):
        component["hashes"] = [{"alg": "SHA-256", "content": model["sha256"]}]
    if model.get("license"):
        component["licenses"] = [{"license": {"name": model["license"]}}]
    if model.get("link"):
        component["externalReferences"] = [{"type": "distribution", "url": model["link"]}]
    return component


def _model_reference(model: dict) -> str:
    """Return a name that differs for two files of one publisher, which share their name."""
    return f"model:{model['name']}@{model.get('sha256') or ''}"

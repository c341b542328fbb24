"""The bill of materials: what CycloneDX 1.5 demands of it, where licenses come from, equal bytes
for equal contents.
"""

import json
import re

import pytest

from wbdc.core.errors import UsageFault
from wbdc.submit.pack.sbom import bill_of_materials

INSTALLED = {
    "Top_Level": [
        "Version: 2.6.0+cu124",
        "License-Expression: MIT OR Apache-2.0",
        "License: free words",
        "Requires-Dist: middle",
        "Requires-Dist: mute",
    ],
    "middle": [
        "Version: 1.0",
        "License: free words",
        "Classifier: License :: OSI Approved :: BSD License",
        "Classifier: Topic :: Text",
    ],
    "mute": ["Version: 2.0", f"License: {'long ' * 40}"],
    "short": ["Version: 3.0", "License: 3-Clause BSD License"],
    "unknown": ["Version: 4.0", "License: UNKNOWN"],
}
MODELS = [
    {"name": "models/late/fold-0", "sha256": "d" * 64},
    {
        "name": "hfl/chinese-macbert-base",
        "sha256": None,
        "license": "apache-2.0",
        "link": "https://huggingface.co/hfl/chinese-macbert-base",
    },
]
# what bom-1.5.schema.json allows and demands, for the parts used here
DOCUMENT = {"bomFormat", "specVersion", "version", "serialNumber", "components", "dependencies"}
COMPONENT = {
    "type",
    "bom-ref",
    "name",
    "version",
    "purl",
    "hashes",
    "licenses",
    "externalReferences",
}


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    for name, lines in INSTALLED.items():
        folder = tmp_path / "site" / f"{name}-1.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            "\n".join(["Metadata-Version: 2.4", f"Name: {name}", *lines]) + "\n"
        )
    monkeypatch.syspath_prepend(tmp_path / "site")


def test_the_document_follows_the_schema():
    document = bill_of_materials(["Top_Level"], MODELS)
    assert set(document) <= DOCUMENT
    assert (document["bomFormat"], document["specVersion"], document["version"]) == (
        "CycloneDX",
        "1.5",
        1,
    )
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}",
        document["serialNumber"],
    )
    for component in document["components"]:
        assert {"type", "name"} <= set(component) <= COMPONENT
        assert component["type"] in ("library", "machine-learning-model")
        assert all(
            h["alg"] == "SHA-256" and re.fullmatch("[0-9a-f]{64}", h["content"])
            for h in component.get("hashes", [])
        )
        licenses = component.get("licenses", [])
        assert len(licenses) <= 1 or all(set(c) == {"license"} for c in licenses), (
            "an expression stands alone"
        )
        assert all({"type", "url"} == set(r) for r in component.get("externalReferences", []))
    references = [c["bom-ref"] for c in document["components"]]
    assert len(references) == len(set(references)) == 5
    assert all({d["ref"], *d["dependsOn"]} <= set(references) for d in document["dependencies"])


def test_packages_have_a_package_url_and_dependencies():
    document = bill_of_materials(["Top_Level"], [])
    assert [(c["name"], c["version"], c["purl"]) for c in document["components"]] == [
        ("middle", "1.0", "pkg:pypi/middle@1.0"),
        ("mute", "2.0", "pkg:pypi/mute@2.0"),
        ("Top_Level", "2.6.0+cu124", "pkg:pypi/top-level@2.6.0%2Bcu124"),
    ]
    assert {d["ref"]: d["dependsOn"] for d in document["dependencies"]}[
        "pkg:pypi/top-level@2.6.0%2Bcu124"
    ] == ["pkg:pypi/middle@1.0", "pkg:pypi/mute@2.0"]


def test_a_license_comes_from_the_expression_the_classifier_or_a_short_field():
    components = {
        c["name"]: c.get("licenses")
        for c in bill_of_materials(["Top_Level", "short", "unknown"], [])["components"]
    }
    assert components["Top_Level"] == [{"expression": "MIT OR Apache-2.0"}]
    assert components["middle"] == [{"license": {"name": "BSD License"}}]
    assert components["short"] == [{"license": {"name": "3-Clause BSD License"}}]
    assert components["mute"] is None
    assert components["unknown"] is None


def test_models_carry_their_hashes():
    components = {c["name"]: c for c in bill_of_materials([], MODELS)["components"]}
    assert list(components) == ["hfl/chinese-macbert-base", "models/late/fold-0"]
    assert components["models/late/fold-0"]["hashes"] == [{"alg": "SHA-256", "content": "d" * 64}]
    theirs = components["hfl/chinese-macbert-base"]
    assert "hashes" not in theirs
    assert theirs["licenses"] == [{"license": {"name": "apache-2.0"}}]
    assert theirs["type"] == "machine-learning-model"
    assert theirs["externalReferences"] == [
        {"type": "distribution", "url": "https://huggingface.co/hfl/chinese-macbert-base"}
    ]


def test_equal_contents_give_equal_bytes_and_serial_numbers():
    one = bill_of_materials(["Top_Level", "short"], MODELS)
    other = bill_of_materials(["short", "Top_Level"], MODELS[::-1])
    assert json.dumps(one) == json.dumps(other)
    changed = bill_of_materials(
        ["Top_Level", "short"], [{**MODELS[0], "sha256": "f" * 64}, MODELS[1]]
    )
    assert changed["serialNumber"] != one["serialNumber"]


def test_a_repeated_model_is_refused_but_two_files_may_share_a_name():
    with pytest.raises(UsageFault, match="model:models/late/fold-0@d+ more than once"):
        bill_of_materials([], [MODELS[0], MODELS[0]])
    other = {**MODELS[0], "sha256": "e" * 64}
    assert [
        c["hashes"][0]["content"][0]
        for c in bill_of_materials([], [other, MODELS[0]])["components"]
    ] == ["d", "e"]

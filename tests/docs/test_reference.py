"""The kit reference and the JSON schema follow from the plugs, and the schema knows the kits."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import toys

HOME = Path(__file__).parents[2]
DOCS = HOME / "docs"
SCHEMA = json.loads((DOCS / "kit.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
KITS = sorted(HOME.glob("kits/*.toml"))


@pytest.fixture(scope="module")
def generator():
    """The script that writes both files."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "generate_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["kit-reference.md", "kit.schema.json", "finding-codes.md", "table-contest.md"]
)
def test_the_files_are_current(generator, name):
    text = (DOCS / name).read_text(encoding="utf-8")
    assert text == generator.FILES[name](), "run `python docs/generate_reference.py`"


def test_every_setting_is_explained():
    pages = [DOCS / "kit-reference.md", DOCS / "table-contest.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert [line for line in text.splitlines() if line.endswith("|  |")] == []


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", KITS, ids=lambda p: p.stem)
def test_the_schema_accepts_the_kits(path):
    VALIDATOR.validate(tomllib.loads(path.read_text(encoding="utf-8")))


def test_the_schema_accepts_the_kits_of_the_tests_and_of_the_documents():
    page = (DOCS / "write-a-plug.md").read_text(encoding="utf-8")
    for text in [toys.KIT, *re.findall(r"^```toml\n# \w+\.toml\n(.*?)^```$", page, re.M | re.S)]:
        VALIDATOR.validate(tomllib.loads(text))


@pytest.mark.parametrize(
    "change",
    [
        "[train]\nepoch = 3",
        "[train]\nepochs = 'three'",
        "[train]\nsplits = ['labeled']",
        "[train]\nobjective = [{ smoothing = 0.1 }]",
        "[train]\nobjective = [{ use = 'classify', smooth = 0.1 }]",
        "[train]\ntrick = [{ use = 'emma' }]",
        "[fusion]\nuse = 'dual_stream'\nhead = 4",
        "[fusion]\nuse = 'dual_stream'\nheads = 'four'",
        "[vision]\nuse = 'clap'",
        "[serve]\nprecision = 'fp8'",
        "[tiny.train]\nepoch = 3",
        "[optimizer]\nname = 'sgd'",
    ],
)
def test_the_schema_refuses_what_a_kit_refuses(change):
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(tomllib.loads(change))

"""The files of a member, by which a program that computes nothing finds them and what it is."""

from pathlib import Path

from wbdc.core.errors import IntegrityFault
from wbdc.core.files import read_json
from wbdc.core.plug_source import has_plug

WEIGHTS_FILE = "model.safetensors"
MODEL_FILE = "model.json"
MEMBERS_PACKAGE = "wbdc.serve.members"
KIND_KEY = "member"  # in model.json: the kind of a member; a network where it is absent
DEFAULT_KIND = "network"
MEMBER_FACTS_SHAPE = {
    "member?": str,
    "classes": [str],
    "competition?": str,
    "serve": {"batch": int, "precision": str},
}


def read_member_facts(folder: Path) -> dict:
    """Read what model.json holds of any member. Raises IntegrityFault."""
    return read_json(folder / MODEL_FILE, MEMBER_FACTS_SHAPE)


def member_kind(facts: dict, folder: Path) -> str:
    """Return the kind of a member, the name of a file of MEMBERS_PACKAGE, by the facts in its
    model.json.

    Raises IntegrityFault for a kind that this version does not have.
    """
    kind = facts.get(KIND_KEY, DEFAULT_KIND)
    if not has_plug(MEMBERS_PACKAGE, kind):
        raise IntegrityFault(
            f"{folder / MODEL_FILE} describes a member of the kind {kind!r}, which this version of"
            " wbdc does not have; use the version that trained it, or train the fold again"
        )
    return kind

"""The origin of pretrained weights, which contests ask for: where each file comes from, its license
and its checksums.
"""

import re

from wbdc.core.errors import IntegrityFault
from wbdc.core.weights import hub_link

KNOWN_LICENSES = {  # as the publishers' pages state
    "hfl/chinese-macbert-base": "apache-2.0",
    "hfl/chinese-roberta-wwm-ext": "apache-2.0",
    "timm/vit_base_patch32_clip_224.openai": "apache-2.0",
}
UNKNOWN_LICENSE = "unknown, ask the publisher"
NOT_RECORDED = "not recorded"
RECORD_KEYS = ("name", "file", "bytes", "md5", "sha256")
ENTRY_KEYS = (*RECORD_KEYS, "link", "license")
# descriptions of parts without a file
NOT_PRETRAINED_PREFIXES = ("random weights", "none:", "fitted to")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TABLE_HEADER = "| weights | file | bytes | license | MD5 | SHA-256 |\n|---|---|---|---|---|---|\n"


def weights_provenance(weights: dict) -> list[dict]:
    """List the pretrained files of a fold, each once, sorted.

    weights: part -> {"name": "hfl/chinese-macbert-base", "file", "bytes", "md5", "sha256" and
    optionally "license" and "link"}, or a description, as older folds have it; a description states
    at most the name, and the other values are None. Parts with random weights are left out, and so
    is "start", a run of this project.

    Returns {"name", "file", "link", "license", "bytes", "md5", "sha256"}. Raises IntegrityFault
    for an incomplete record.
    """
    entries = [
        _provenance_entry(part, record)
        for part, record in sorted(weights.items())
        if _is_pretrained(part, record)
    ]
    return _distinct(entries)


def provenance_table(entries: list[dict]) -> str:
    """Return entries, of one or more folds, as a Markdown table; equal entries are listed once."""
    if not entries:
        return "No pretrained weights: all models start from random numbers.\n"
    rows = [f"| {' | '.join(_table_cells(entry))} |\n" for entry in _distinct(entries)]
    return TABLE_HEADER + "".join(rows)


def _is_pretrained(part: str, record: dict | str) -> bool:
    if isinstance(record, dict):
        return True
    return part != "start" and not record.startswith(NOT_PRETRAINED_PREFIXES)


def _provenance_entry(part: str, record: dict | str) -> dict:
    if isinstance(record, str):
        record = dict.fromkeys(RECORD_KEYS) | {"name": re.split(r" from |: ", record)[0]}
    elif missing := [key for key in RECORD_KEYS if key not in record]:
        raise IntegrityFault(
            f"the record of the weights of {part} lacks {', '.join(missing)}; train the fold again"
        )

    name = record["name"]
    link = record.get("link") or (hub_link(name) if HUB_NAME.fullmatch(name) else None)
    return {
        **{key: record[key] for key in RECORD_KEYS},
        "link": link,
        "license": record.get("license") or KNOWN_LICENSES.get(name, UNKNOWN_LICENSE),
    }


def _distinct(entries: list[dict]) -> list[dict]:
    by_values = {tuple(str(entry[key]) for key in ENTRY_KEYS): entry for entry in entries}
    return [by_values[values] for values in sorted(by_values)]


def _table_cells(entry: dict) -> list[str]:
    name = f"[{entry['name']}]({entry['link']})" if entry["link"] else entry["name"]
    size = f"{entry['bytes']:,}" if entry["bytes"] is not None else None
    cells = [name, entry["file"], size, entry["license"], entry["md5"], entry["sha256"]]
    return [(NOT_RECORDED if cell is None else cell).replace("|", "/") for cell in cells]

"""The ledger of pretrained weights that contests ask for: where each file comes from, under which
license, with its checksums.
"""

import re

from wbdc.core.errors import IntegrityBroken

KNOWN_LICENSES = {  # as the publishers' pages state
    "hfl/chinese-macbert-base": "apache-2.0",
    "hfl/chinese-roberta-wwm-ext": "apache-2.0",
    "timm/vit_base_patch32_clip_224.openai": "apache-2.0",
}
UNKNOWN, UNRECORDED = "unknown, ask the publisher", "not recorded"
RECORDED = ("name", "file", "bytes", "md5", "sha256")
OWN = ("random weights", "none:")  # how parts that nobody else trained begin
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
HEAD = "| weights | file | bytes | license | MD5 | SHA-256 |\n|---|---|---|---|---|---|\n"


def weights_provenance(weights: dict) -> list[dict]:
    """List the pretrained files of a fold: {"name", "file", "link", "license", "bytes", "md5",
    "sha256"}, each file once, sorted.

    weights: part -> {"name": "hfl/chinese-macbert-base", "file", "bytes", "md5", "sha256", and
    perhaps "license"}, or the words that older folds left:
    those name the weights at best, and what they do not say is None. Random weights and "start", a
    run of one's own, are left out.
    Raises IntegrityBroken for an incomplete record.
    """
    entries = [_entry(part, said) for part, said in sorted(weights.items()) if not _own(part, said)]
    return _distinct(entries)


def provenance_table(entries: list[dict]) -> str:
    """Write entries, of one fold or of many, as a table in Markdown; equal ones once."""
    if not entries:
        return "No pretrained weights: all models start from random numbers.\n"
    return HEAD + "".join(f"| {' | '.join(_cells(entry))} |\n" for entry in _distinct(entries))


def _own(part: str, said: dict | str) -> bool:
    return isinstance(said, str) and (part == "start" or said.startswith(OWN))


def _entry(part: str, said: dict | str) -> dict:
    if isinstance(said, str):
        said = dict.fromkeys(RECORDED) | {"name": re.split(r" from |: ", said)[0]}
    elif missing := [key for key in RECORDED if key not in said]:
        raise IntegrityBroken(
            f"the record of the weights of {part} lacks {', '.join(missing)}; train the fold again"
        )
    name = said["name"]
    link = f"https://huggingface.co/{name}" if REPOSITORY.fullmatch(name) else None
    return {
        **{key: said[key] for key in RECORDED},
        "link": link,
        "license": said.get("license") or KNOWN_LICENSES.get(name, UNKNOWN),
    }


def _distinct(entries: list[dict]) -> list[dict]:
    order = [*RECORDED, "link", "license"]
    kept = {tuple(str(entry[key]) for key in order): entry for entry in entries}
    return [kept[key] for key in sorted(kept)]


def _cells(entry: dict) -> list[str]:
    name = f"[{entry['name']}]({entry['link']})" if entry["link"] else entry["name"]
    size = f"{entry['bytes']:,}" if entry["bytes"] is not None else None
    cells = [name, entry["file"], size, entry["license"], entry["md5"], entry["sha256"]]
    return [(UNRECORDED if cell is None else cell).replace("|", "/") for cell in cells]

"""A draft of a kit for a contest of the user's own: an existing kit with other text fields."""

import json
from collections.abc import Sequence

from wbdc.train.kit import open_kit
from wbdc.train.kit_files import find_kit_file, read_kit


def draft_kit(parent: str, contest: str, fields: Sequence[str], splits: Sequence[str]) -> str:
    """Return the TOML of a kit that extends `parent`, for the contest "./file.toml" or "./file.py".

    fields: text columns, which share the text's length evenly. splits: those that [pretrain] reads.
    """
    full = open_kit(parent).tables
    lines = [
        f"# The kit {parent} for {contest}. Train: wbdc train --kit ./THIS_FILE.toml --fold each",
        f"extends = {json.dumps(parent)}",
        f"competition = {json.dumps(contest, ensure_ascii=False)}",
    ]
    if "text" not in full:  # an estimator, which reads all fields of the contest
        return "\n".join(lines) + "\n"

    # not opened: checking its architecture takes the seconds in which torch is imported
    tiny = read_kit(find_kit_file(parent), tiny=True)
    lines += [
        "",
        "[text]",
        f"fields = {_share_length(fields, full['text']['length'])} # tokens each may always have",
        "",
        "# [trunk]",
        '# model = "google-bert/bert-base-uncased"  # a text encoder for English',
    ]
    if "pretrain" in full:
        lines += ["", "[pretrain]", f"splits = {json.dumps(list(splits))}"]
    lines += ["", "[tiny.text]", f"fields = {_share_length(fields, tiny['text']['length'])}"]
    return "\n".join(lines) + "\n"


def _share_length(fields: Sequence[str], length: int) -> str:
    """Write an inline table of equal token budgets, special tokens left out."""
    budget = max(0, length - 1 - len(fields)) // max(1, len(fields))
    pairs = ", ".join(f"{json.dumps(name, ensure_ascii=False)} = {budget}" for name in fields)
    return f"{{ {pairs} }}"

"""Whether a kit fits prepared data: their contest and their text fields."""

import shlex

from wbdc.core.errors import UsageFault
from wbdc.prepare.dataset import PreparedData
from wbdc.train.kit import Kit


def check_contest(kit: Kit, prepared: PreparedData) -> None:
    """Refuse a kit of another contest than the data's, or one that reads text fields which the data
    lack. Raises UsageFault.
    """
    fields = prepared.facts.text_fields
    data_contest = prepared.facts.competition
    listed = ", ".join(fields) or "none"
    if kit.contest.name != data_contest:
        raise UsageFault(
            f"kit {kit.name} is for {kit.contest.name}, but data {prepared.hash} were prepared for "
            f"{data_contest} (text fields: {listed}); choose another kit, other data with "
            "--prepared, or set competition and text.fields"
        )
    if kit.contest.source_hash != prepared.contest.source_hash:
        path = shlex.quote(str(kit.contest.file))
        raise UsageFault(
            f"kit {kit.name} is for {kit.contest.file}, which is not the file that data "
            f"{prepared.hash} were prepared with; run `wbdc prepare --competition {path}`, or "
            "choose other data with --prepared"
        )
    read_fields = kit.tables.get("text", {}).get("fields", ())
    if missing := [field for field in read_fields if field not in fields]:
        raise UsageFault(
            f"kit {kit.name} is for {kit.tables['competition']} and reads the text field "
            f"{missing[0]!r}, which the prepared data of {data_contest} does not have (it has "
            f"{listed}); choose another kit, or set competition and text.fields"
        )

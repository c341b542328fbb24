"""Find the stage of serving that takes the most time, and the cheapest setting to change."""

from typing import NamedTuple

READING_STAGES = ("read", "decode", "tokenize", "collate")  # in threads, ahead of the main thread
COMPUTING_STAGES = ("vision", "fuse", "linear")  # in the main thread
STAGE_LABELS = {
    "read": "Reading archives",
    "decode": "Decoding",
    "tokenize": "Tokenizing",
    "collate": "Batching",
    "vision": "Encoding frames",
    "fuse": "Fusing text and frames",
    "linear": "Computing linear members",
}


class InputSetting(NamedTuple):
    """A setting that shrinks what models read. name: as in a kit; variant_key: as in `wbdc ensemble
    --run 'RUN key=value'`; label: for sentences; stages: those that get faster; minimum: of its
    value.
    """

    name: str
    variant_key: str
    label: str
    stages: tuple[str, ...]
    minimum: int


FRAMES = InputSetting(
    "vision.frames", "frames", "fewer frames", ("read", "decode", "collate", "vision"), 1
)
TEXT_LENGTH = InputSetting("text.length", "length", "shorter texts", ("tokenize", "fuse"), 32)


class ServingSizes(NamedTuple):
    """What the packed models read. frames: per video; tokens: of the text; both the largest of any
    member; members: number of models.
    """

    frames: int
    tokens: int
    members: int


def stage_shares(stage_seconds: dict[str, float], prediction_seconds: float) -> dict[str, float]:
    """Divide the wall time of prediction among the stages; the shares sum to 1.

    stage_seconds: summed over threads for READING_STAGES. The main thread either computes
    (vision, fuse, linear) or waits for batches; its waiting time is divided in proportion to the
    seconds of the reading stages. Work that overlaps with other work therefore costs nothing.
    """
    computing = {stage: stage_seconds.get(stage, 0.0) for stage in COMPUTING_STAGES}
    reading = {stage: stage_seconds.get(stage, 0.0) for stage in READING_STAGES}
    computing_total = sum(computing.values())
    reading_total = sum(reading.values())
    whole = max(prediction_seconds, computing_total, 1e-9)
    waiting = whole - computing_total

    shares = {
        stage: (waiting * seconds / reading_total if reading_total else 0.0) / whole
        for stage, seconds in reading.items()
    }
    return shares | {stage: seconds / whole for stage, seconds in computing.items()}


def slowest_stage(shares: dict[str, float]) -> str:
    """Return the stage with the largest share."""
    return max(shares, key=shares.get)


def describe_bottleneck(shares: dict[str, float]) -> str:
    """Describe the slowest stage: "Decoding takes 63% of the time"."""
    stage = slowest_stage(shares)
    return f"{STAGE_LABELS[stage]} takes {shares[stage]:.0%} of the time"


def suggest_change(shares: dict[str, float], sizes: ServingSizes, needed_share: float) -> str:
    """Suggest the cheapest change that shortens prediction by `needed_share`, with its command.

    needed_share: 1 - limit / projected time. The estimate is linear: half the frames, half the
    seconds of the stages that handle frames.
    """
    stage = slowest_stage(shares)
    if stage == "fuse" and sizes.members > 1:
        return f"try {_fewer_models(sizes.members)}"

    setting, value = (TEXT_LENGTH, sizes.tokens)
    if stage in FRAMES.stages:
        setting, value = (FRAMES, sizes.frames)
    affected_share = sum(shares[name] for name in setting.stages)
    target = int(value * (1 - needed_share / affected_share)) if affected_share else 0

    if target < setting.minimum or value <= setting.minimum:
        alternative = "a smaller vision tower or text trunk"
        if sizes.members > 1:
            alternative = _fewer_models(sizes.members)
        return f"{setting.label} alone are not enough, try {alternative}"
    target = min(target, value - 1)
    command = f"`wbdc ensemble --run 'RUN {setting.variant_key}={target}'`"
    return f"try {setting.name} = {target} ({command})"


def _fewer_models(members: int) -> str:
    return f"fewer than {members} models (`wbdc ensemble --limit SECONDS`)"

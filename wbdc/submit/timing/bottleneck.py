"""Which stage bounds a submission, and the cheapest change to a kit that would help."""

from typing import NamedTuple

READING = ("read", "decode", "tokenize", "collate")  # in threads, ahead of
COMPUTING = ("vision", "fuse")  # in the main thread
CALLED = {
    "read": "Reading archives",
    "decode": "Decoding",
    "tokenize": "Reading text",
    "collate": "Making batches",
    "vision": "Encoding frames",
    "fuse": "Fusing text and frames",
}
PER_FRAME = ("read", "decode", "collate", "vision")  # stages that shrink with the number of frames
PER_WORD = ("tokenize", "fuse")


class ServingSizes(NamedTuple):
    """What the packed models ask for. frames: per video; length: of the text, in tokens; both the
    most of any member. members: how many.
    """

    frames: int
    length: int
    members: int


def stage_shares(stages: dict[str, float], answering: float) -> dict[str, float]:
    """Share out the wall time of answering among the stages; the shares sum to 1.

    stages: seconds, summed over threads for READING. The main thread either computes (vision, fuse)
    or waits for what is read; its
    waiting is shared out by the seconds of the reading stages. So work that overlaps with other
    work costs nothing, as in truth.
    """
    computing = {s: stages.get(s, 0.0) for s in COMPUTING}
    reading = {s: stages.get(s, 0.0) for s in READING}
    whole, read = max(answering, sum(computing.values()), 1e-9), sum(reading.values())
    waiting = whole - sum(computing.values())
    return {s: (waiting * reading[s] / read if read else 0.0) / whole for s in READING} | {
        s: computing[s] / whole for s in COMPUTING
    }


def slowest_stage(shared: dict[str, float]) -> str:
    """Name the stage with the largest share."""
    return max(shared, key=shared.get)


def describe_stages(shared: dict[str, float]) -> str:
    """Name the slowest stage in words: "Decoding takes 63%"."""
    stage = slowest_stage(shared)
    return f"{CALLED[stage]} takes {shared[stage]:.0%}"


def suggest_change(shared: dict[str, float], kits: ServingSizes, needed: float) -> str:
    """Word the cheapest change that would shorten the run by the share `needed`: "try vision.frames
    = 10".

    needed: 1 - limit / projected. The estimate is linear: half the frames, half the seconds of the
    stages that handle frames.
    """
    stage = slowest_stage(shared)
    kinds, setting, now = (
        (PER_FRAME, "vision.frames", kits.frames)
        if stage in PER_FRAME
        else (PER_WORD, "text.length", kits.length)
    )
    affected = sum(shared[s] for s in kinds)
    kept = int(now * (1 - needed / affected)) if affected else 0
    if stage == "fuse" and kits.members > 1:
        return f"try fewer members than {kits.members}"
    least = 1 if setting == "vision.frames" else 32
    if kept < least or now <= least:
        return f"no {setting} would do alone; try {f'fewer members than {kits.members}' if kits.members > 1 else 'a smaller tower or trunk'}"
    return f"try {setting} = {min(kept, now - 1)}"

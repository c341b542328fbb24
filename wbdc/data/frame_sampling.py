"""Frame sampling: which frames of a video are read."""


def sample_frames(count: int, max_frames: int) -> list[int]:
    """Return `max_frames` of `count` positions, each the middle of an equal share of them:
    floor((i + 0.5) · count / max_frames).

    Positions are strictly increasing; all are returned when count <= max_frames. (The common
    `range(0, n, n // k)[:k]` samples a prefix only.)
    """
    if count <= max_frames:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * max_frames) for i in range(max_frames)]

"""Generated videos: archives of JPEG frames with 256 pixels on the short side, and long texts."""

import zipfile
from pathlib import Path

import numpy as np

from wbdc.competitions import Source, Video
from wbdc.submit.timing.machine_profile import random_frame

DISTINCT_FRAMES = 16  # drawn once, since drawing takes longer than reading
COMMON_CHARACTERS = (
    "的一是不了在有人我他这中大来上个国们到说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方"
    "多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此"
)


def write_videos(folder: Path, count: int, frames: int, budgets: dict[str, int]) -> list[Video]:
    """Write archives of `frames` frames of about 30 kB each, and return their videos.

    budgets: tokens of each text field. Texts fill them, so that every text has the full length.
    """
    random = np.random.default_rng(0)
    encoded = [random_frame(seed) for seed in range(min(frames, DISTINCT_FRAMES))]
    videos = []
    for number in range(count):
        path = folder / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for position in range(frames):
                data = encoded[(number + position) % len(encoded)]
                archive.writestr(f"{position}.jpg", data)
        fields = {
            field: "".join(random.choice(list(COMMON_CHARACTERS), budget))
            for field, budget in budgets.items()
        }
        videos.append(Video(str(number), fields, None, Source(path)))
    return videos

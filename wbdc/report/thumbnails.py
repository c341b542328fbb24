"""Thumbnails of the frames of labeled videos, as images inside the page."""

import base64
import io
from collections.abc import Iterable

from PIL import Image

from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.frames import decode_frame
from wbdc.data.store import FRAMES_FOLDER, open_columns, split_images
from wbdc.prepare.dataset import PreparedData

THUMBNAIL_SETTINGS = ImageSettings(112, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
THUMBNAIL_QUALITY = 68  # of JPEG
MAX_THUMBNAILS = 4  # of a video


def read_thumbnails(prepared: PreparedData, ids: Iterable[str]) -> dict[str, list[str]]:
    """Return {id: data URIs of a few frames, cropped to squares} of labeled videos.

    Videos without readable frames are left out, and so are all videos of a dataset of features.
    """
    facts = prepared.facts
    if facts.frame_format != "jpeg":
        return {}
    all_ids = prepared.read_split(facts.labeled_split, ["id"])["id"].to_list()
    row_of = {name: row for row, name in enumerate(all_ids)}
    columns = open_columns(
        prepared.folder / FRAMES_FOLDER, facts.labeled_split, ("bytes", "sizes"), len(all_ids)
    )
    pictures = {
        name: _video_thumbnails(split_images(*(column[row_of[name]] for column in columns)))
        for name in dict.fromkeys(ids)
    }
    return {name: some for name, some in pictures.items() if some}


def _video_thumbnails(encoded: list[bytes]) -> list[str]:
    chosen = [encoded[number] for number in sample_frames(len(encoded), MAX_THUMBNAILS)]
    findings = Findings()  # `wbdc prepare` has counted damaged frames
    frames = [decode_frame(data, THUMBNAIL_SETTINGS, findings) for data in chosen]
    return [_data_uri(frame.transpose(1, 2, 0)) for frame in frames if frame is not None]


def _data_uri(pixels: object) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=THUMBNAIL_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"

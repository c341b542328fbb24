"""Further modalities of a contest: one line in its file names the path of each video's features."""

from pathlib import Path

import pytest

from wbdc.competitions import NO_FRAMES, Source, modality_content, open_competition
from wbdc.core.errors import UsageFault
from wbdc.core.findings import Findings

TABLE = """
labeled = "train.csv"
test = "test.csv"
id = "id"
text = ["title"]
label = "kind"
classes = ["a", "b"]
"""
OWN = """
from wbdc.competitions.wechat2022 import WeChat2022

class Own(WeChat2022):
    modalities = {modalities}
"""


def open_table(folder: Path, modalities: str):
    file = folder / "contest.toml"
    file.write_text(f"{TABLE}\n{modalities}\n")
    return open_competition(str(file))


def test_a_table_yields_the_files_of_each_row(tmp_path):
    contest = open_table(tmp_path, 'modalities.audio = "sound/{split}/{id}.npy"')
    (tmp_path / "test.csv").write_text("id,title\nv1,x\n../v2,x\n")
    first, second = contest.videos(tmp_path, "test", Findings())
    assert first.modalities == {"audio": Source(tmp_path / "sound" / "test" / "v1.npy")}
    assert second.modalities == {"audio": NO_FRAMES}, "an id cannot lead out of the data"


def test_a_table_yields_the_sound_of_its_video_files(tmp_path):
    contest = open_table(tmp_path, 'frames = "file"\nmodalities.audio = "{frames}"')
    (tmp_path / "test.csv").write_text("id,title,file\nv1,x,a/one.MKV\nv2,x,two.zip\nv3,x,\n")
    clip, archive, none = contest.videos(tmp_path, "test", Findings())
    assert clip.modalities == {"audio": clip.source} == {"audio": Source(tmp_path / "a/one.MKV")}
    assert archive.modalities == none.modalities == {"audio": NO_FRAMES}
    assert {*map(modality_content, ("{frames}", "a/{id}.WAV", "{id}.mp4"))} == {"sound"}
    assert modality_content("a/{id}.npy") == "features"
    assert modality_content("a/{id}.txt") == "tokens"


def test_contests_have_none_by_default(tmp_path):
    (tmp_path / "test.csv").write_text("id,title\nv1,x\n")
    contest = open_table(tmp_path, "")
    assert contest.modalities == open_competition("wechat2022").modalities == {}
    assert next(contest.videos(tmp_path, "test", Findings())).modalities == {}


BAD = {
    '{"text": "a/{id}.npy"}': "cannot have the name 'text'",
    '{"title": "a/{id}.npy"}': "cannot have the name 'title'",
    '{"Audio": "a/{id}.npy"}': "cannot have the name 'Audio'; choose lower-case",
    '{"audio": "a.npy"}': r"modalities.audio = 'a.npy' is not the path .*; write for example",
    '{"audio": "a/{id}.mid"}': r"= 'a/{id}.mid' is not the path of a file .* \(.npy, .wav, .flac, ",
    '{"audio": "a.wav"}': r"modalities.audio = 'a.wav' is not the path .* or \"audio/{id}.wav\"",
    '{"audio": "../{id}.wav"}': r"leads out of the data folder",
    '{"audio": "../{id}.npy"}': r"leads out of the data folder",
    '{"audio": "/data/{id}.npy"}': r"leads out of the data folder",
    '{"audio": 3}': r"modalities.audio",
    '["audio"]': r"modalities",
}


@pytest.mark.parametrize(("modalities", "message"), BAD.items())
def test_bad_modalities_are_refused_in_one_sentence(tmp_path, modalities, message):
    file = tmp_path / "own.py"
    file.write_text(OWN.format(modalities=modalities))
    with pytest.raises(UsageFault, match=message) as raised:
        open_competition(str(file))
    assert str(file) in str(raised.value)
    with pytest.raises(UsageFault, match=message.split("'")[0]):
        open_table(tmp_path, f"modalities = {modalities.replace(':', ' =')}")

"""Preparing a contest with sound files: stored samples, findings, and the rows of a view."""

from pathlib import Path

import numpy as np
import pytest
import small

from wbdc.competitions import open_competition
from wbdc.data.log_mel import mel_patches
from wbdc.data.store import open_columns
from wbdc.nets.modality.vggish import vggish_mel
from wbdc.prepare.build import prepare_data
from wbdc.prepare.check import check_data
from wbdc.prepare.dataset import PreparedData
from wbdc.prepare.view import InputSpec, modality_columns
from wbdc.prepare.view import View as PreparedView
from wbdc.submit.pipeline import optional_packages

pytest.importorskip("av")
pytestmark = pytest.mark.usefixtures("quick_disk")
MEL = vggish_mel(16, 8)


def samples(number: int) -> np.ndarray:
    """Return the sound of a video: of every five, one is silent and one has none."""
    noise = np.random.default_rng(number).integers(-9000, 9000, 4000 * (number % 5))
    return (noise * (number % 5 != 2)).astype(np.int16)


@pytest.fixture
def contest(tmp_path) -> Path:
    return small.audio_contest(tmp_path, "wav")


@pytest.fixture
def root(small_root) -> Path:
    return small.add_audio(small_root, "wav", lambda i: small.wav(samples(i)[:, None]))


def prepare(root: Path, work: Path, contest: Path, threads: int = 2) -> PreparedData:
    return prepare_data(root, work, open_competition(str(contest)), folds=3, threads=threads)[0]


def test_samples_are_stored_and_a_view_holds_their_spectrograms(root, tmp_path, contest):
    prepared = prepare(root, tmp_path / "work", contest)
    (column,) = open_columns(prepared.folder / "frames", "labeled", ["modality.audio"], 12)
    expected = [samples(i) if i % 5 not in (0, 2) else samples(0) for i in range(12)]
    for i, sound in enumerate(expected):
        assert column[i].dtype == np.int16
        assert np.array_equal(column[i], sound)
    assert prepared.read_split("labeled")["audio"].to_list() == list(map(len, expected))

    findings = prepared.facts.findings
    every = [i for count in small.SPLITS.values() for i in range(count)]
    assert findings["modality.missing"]["count"] == sum(i % 5 == 0 for i in every)
    assert findings["sound.silent"]["count"] == sum(i % 5 == 2 for i in every)
    assert "sound.broken" not in findings

    spec = InputSpec(None, None, 1, steps={"audio": 3}, mels={"audio": MEL})
    columns = modality_columns(prepared, spec, "labeled")
    view = PreparedView([None] * 12, (), [None] * 12, spec, columns)
    for i, sound in enumerate(expected):
        rows = view[i].modalities["audio"]
        assert len(rows) == (0, 1, 0, 3, 3)[i % 5]
        assert np.array_equal(rows, mel_patches(sound, MEL, 3))


def test_damaged_files_are_counted_and_stored_as_missing(root, tmp_path, contest):
    name = small.ids("labeled")[3]
    small.audio(root, "labeled", name, "wav").write_bytes(b"RIFF")
    prepared = prepare(root, tmp_path / "work", contest)
    assert prepared.facts.findings["sound.broken"]["count"] == 1
    assert prepared.read_split("labeled")["audio"].to_list()[3] == 0


def test_threads_change_no_byte(root, tmp_path, contest):
    first = prepare(root, tmp_path / "one", contest, threads=1)
    second = prepare(root, tmp_path / "two", contest, threads=3)
    shards = [sorted((data.folder / "frames").iterdir()) for data in (first, second)]
    assert [p.read_bytes() for p in shards[0]] == [p.read_bytes() for p in shards[1]]


def test_space_for_the_samples_is_counted_before_they_are_written(root, contest):
    """A compressed file takes more space decoded, and never more than 32 seconds of samples."""
    own = open_competition(str(contest))
    without = check_data(root, open_competition("wechat2022")).frame_bytes
    sizes = [path.stat().st_size for path in (root / "audio").rglob("*.wav")]
    assert check_data(root, own).frame_bytes == without + 12 * sum(sizes)
    with small.audio(root, "test", small.ids("test")[1], "wav").open("ab") as file:
        size = file.tell()
        file.truncate(10**7)
    assert check_data(root, own).frame_bytes == without + 12 * (sum(sizes) - size) + 1_024_000


def test_a_submission_needs_the_decoder(root, contest):
    assert optional_packages(open_competition(str(contest)), root) == ["av"]
    assert optional_packages(open_competition("wechat2022"), root) == []

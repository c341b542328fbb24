"""Sound files and the sound of video files: samples, and what is damaged, silent or hostile."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import small

from wbdc.competitions import NO_FRAMES, Source
from wbdc.core.errors import EnvironmentFault
from wbdc.core.findings import Findings
from wbdc.data import sound_files
from wbdc.data.sound_files import MAX_SOUND_SAMPLES, read_sound

av = pytest.importorskip("av")


def read(path: Path, content: bytes | None = None) -> tuple[np.ndarray, dict]:
    """Write a file, if there is content, and read it; return its samples and the findings."""
    if content is not None:
        path.write_bytes(content)
    findings = Findings()
    samples = read_sound(Source(path), findings)
    assert samples.dtype == np.int16
    return samples, findings.report()


def tone(seconds: float, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """Return a tone of 440 Hz in all channels: (n, channels) int16."""
    wave = 8000 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave.astype(np.int16)[:, None], channels, 1)


def encode(path: Path, seconds: float, codec: str, rate: int = 48_000) -> Path:
    """Write a tone of two channels with an encoder of FFmpeg."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        samples = tone(seconds, rate, 2)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", "stereo")
        frame.sample_rate = rate
        for part in (frame, None):
            container.mux(stream.encode(part))
    return path


def loudest_hertz(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples))


def test_samples_of_16_khz_mono_are_read_as_they_are(tmp_path):
    samples, findings = read(tmp_path / "a.wav", small.wav(tone(1.3)))
    assert np.array_equal(samples, tone(1.3)[:, 0])
    assert findings == {}


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44_100, 2), (48_000, 6), (96_000, 2)])
def test_other_rates_and_channels_become_16_khz_mono(tmp_path, rate, channels):
    samples, findings = read(tmp_path / "a.wav", small.wav(tone(2.0, rate, channels), rate))
    assert abs(len(samples) - 32_000) <= 40
    assert abs(loudest_hertz(samples) - 440) < 1
    assert findings == {}


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "aac"),
        ("a.m4a", "aac"),
        ("a.mkv", "aac"),
        ("a.webm", "libopus"),
        ("a.mp3", "mp3"),
        ("a.ogg", "libopus"),
        ("a.flac", "flac"),
    ],
)
def test_compressed_sound_is_read(tmp_path, name, codec):
    samples, findings = read(encode(tmp_path / name, 2.0, codec))
    assert 31_000 <= len(samples) <= 34_000
    assert abs(loudest_hertz(samples) - 440) < 2
    assert findings == {}


def test_the_first_32_seconds_are_read_twice_alike(tmp_path):
    noise = np.random.default_rng(0).integers(-9000, 9000, (45 * 22_050, 1)).astype(np.int16)
    path = tmp_path / "long.wav"
    samples, findings = read(path, small.wav(noise, 22_050))
    assert (len(samples), findings) == (MAX_SOUND_SAMPLES, {})
    assert np.array_equal(read(path)[0], samples)


def _patched(data: bytes, position: int, value: int, size: int = 4) -> bytes:
    return data[:position] + value.to_bytes(size, "little") + data[position + size :]


WAV = small.wav(tone(0.5))
BROKEN = {
    "empty file": b"",
    "one byte": b"R",
    "not a container": b"not a sound" * 99,
    "a header without data": WAV[:20],
    "zeros": bytes(4096),
    "no channels": _patched(WAV, 22, 0, 2),
    "no sample rate": _patched(WAV, 24, 0),
    "a rate of 1 Hz": _patched(WAV, 24, 1),
    "a rate of 4 GHz": _patched(WAV, 24, 2**32 - 1),
    "65,535 channels": _patched(WAV, 22, 2**16 - 1, 2),
    "unknown codec": _patched(WAV, 20, 0x7777, 2),
    "no bits a sample": _patched(WAV, 34, 0, 2),
    "a playlist": b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
    "a list of files": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "a zip archive": b"PK\x03\x04" + bytes(60),
    "an array": small.numbers(np.ones((3, 2), np.float32)),
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_damaged_files_are_counted_and_give_no_samples(tmp_path, content):
    path = tmp_path / "v.wav"
    samples, findings = read(path, content)
    assert len(samples) == 0
    (code,) = findings
    assert code in ("sound.broken", "sound.silent")
    assert findings[code]["count"] == 1
    assert findings[code]["places"][0].startswith(f"{tmp_path.name}/v.wav")


SILENT = {
    "zeros": np.zeros((16_000, 1), np.int16),
    "the noise of a codec": np.tile([[3], [-3]], (8000, 1)).astype(np.int16),
    "no samples": np.zeros((0, 1), np.int16),
}


@pytest.mark.parametrize("samples", SILENT.values(), ids=SILENT)
def test_silence_is_counted_and_gives_no_samples(tmp_path, samples):
    found, findings = read(tmp_path / "v.wav", small.wav(samples))
    assert (len(found), list(findings)) == (0, ["sound.silent"])


def test_quiet_sound_is_no_silence(tmp_path):
    samples, findings = read(tmp_path / "v.wav", small.wav(np.full((800, 1), -4, np.int16)))
    assert (len(samples), findings) == (800, {})


def test_the_sound_before_some_damage_is_used(tmp_path):
    path = encode(tmp_path / "a.mkv", 4.0, "aac")
    whole, _ = read(path)
    data = path.read_bytes()
    samples, findings = read(tmp_path / "b.mkv", data[: len(data) // 2])
    assert 0 < len(samples) < len(whole)
    assert np.array_equal(samples[: len(samples) // 2], whole[: len(samples) // 2])
    assert set(findings) <= {"sound.cut"}


def test_an_error_in_the_middle_is_counted(tmp_path, monkeypatch):
    def cut(container, av):
        yield tone(0.1)[:, 0]
        raise ValueError("the rate changed")

    monkeypatch.setattr(sound_files, "_decode_samples", cut)
    samples, findings = read(tmp_path / "v.wav", WAV)
    assert (len(samples), findings["sound.cut"]["count"]) == (1600, 1)


def test_pipes_folders_and_huge_files_are_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name in ("pipe.wav", "folder.wav"):
        assert list(read(tmp_path / name)[1]) == ["sound.broken"]
    monkeypatch.setattr(sound_files, "MAX_FILE_BYTES", 100)
    assert list(read(tmp_path / "v.wav", WAV)[1]) == ["sound.huge"]


def test_a_missing_file_has_no_sound_and_is_not_damage(tmp_path):
    for source in (NO_FRAMES, Source(tmp_path / "none.wav")):
        findings = Findings()
        assert len(read_sound(source, findings)) == 0
        assert findings.report() == {}


def test_without_pyav_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(EnvironmentFault, match=r"sound files are read with PyAV .*wbdc\[video\]"):
        read(tmp_path / "v.wav", WAV)


CLIPS = {  # seconds of sound, 0 for none or silence
    "asl_bird.mkv": 0,
    "big-buck-bunny-480p-5s.mp4": 5.0,
    "decord_corrupted.mp4": 0,
    "decord_video_rotated_90.mov": 0,
    "flipping_a_pancake.mkv": 10.4,
    "flower.mp4": 0,
    "friday.mp4": 6.15,
    "stream-of-water-audioless.webm": 0,
    "stream-of-water.mp4": 3.16,
    "stream-of-water.webm": 3.12,
}


@pytest.mark.parametrize(("name", "seconds"), CLIPS.items())
def test_the_sound_of_real_clips(real_data, name, seconds):
    samples, findings = read(real_data / "clips" / name)
    assert abs(len(samples) / 16_000 - seconds) < 0.05
    assert list(findings) == ([] if seconds else ["sound.silent"])


def test_nasty_files_raise_nothing(real_data):
    paths = [path for path in (real_data / "nasty").rglob("*") if path.is_file()]
    assert len(paths) > 100
    for path in paths:
        samples, findings = read(path)
        assert len(samples) == 0
        assert set(findings) <= {"sound.broken", "sound.silent"}

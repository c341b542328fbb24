"""The stages of serving that `wbdc bench` measures, their work, and what bounds the whole path."""

import json
from types import SimpleNamespace

import pytest
import small
import torch
import toys
from toys import kit  # noqa: F401

from wbdc.bench import openvino_rates, peaks, random_member, serving_bench
from wbdc.bench.openvino_rates import OpenVinoRates, measure_openvino
from wbdc.bench.peaks import Peaks
from wbdc.bench.serving_bench import BenchReport
from wbdc.bench.stage_rate import SERVING_STAGES, StageRate, find_bound, rate_stage
from wbdc.bench.stage_seconds import count_flops, time_networks
from wbdc.bench.videos import write_videos
from wbdc.competitions import Source, Video
from wbdc.core.errors import DataFault, UsageFault
from wbdc.core.plug import build_plug
from wbdc.nets import vision as visions
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.openvino_function import is_openvino_installed
from wbdc.serve.stage_timer import StageTimer
from wbdc.train.kit import open_kit

FRAMES = 2
CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch):
    """Measure for a moment only, by torch."""
    monkeypatch.setattr(openvino_rates, "is_openvino_installed", lambda: False)
    monkeypatch.setattr(serving_bench, "STAGE_SECONDS", 0.01)
    monkeypatch.setattr(serving_bench, "PATH_SECONDS", 0.01)
    monkeypatch.setattr(serving_bench, "VIDEOS", 2)
    monkeypatch.setattr(peaks, "CPU_SQUARES", (16,))
    monkeypatch.setattr(peaks, "MATRIX_SHAPES", ())
    monkeypatch.setattr(peaks, "COPY_BYTES", 2**10)


@pytest.fixture
def engine(kit, tmp_path):  # noqa: F811
    folder = tmp_path / "member"
    random_member.write_random_member(folder, open_kit(str(kit)), FRAMES)
    return InferenceEngine([folder], [1.0], CPU, torch.float32, 1)


@pytest.fixture
def batches(engine, tmp_path):
    videos = write_videos(tmp_path, 3, FRAMES, {"title": 14, "asr": 8, "ocr": 6})
    return engine.reader.read(videos, [0], StageTimer())[0]


def rate(stage: str, resource: str, videos: float) -> StageRate:
    return StageRate(stage, resource, videos, 1.0, "B/s", None)


def test_stages_of_one_resource_take_turns_and_resources_overlap():
    stages = [rate("read", "CPU", 100), rate("decode", "CPU", 25), rate("vision", "GPU", 21)]
    assert find_bound(stages) == (pytest.approx(20), "CPU")  # slower than the slowest stage
    stages[2] = rate("vision", "GPU", 10)
    assert find_bound(stages) == (10, "GPU")


def test_generated_videos_have_the_frames_and_the_tokens_of_the_kit(engine, batches, tmp_path):
    batch = batches[0]
    assert batch.frames.shape == (3, FRAMES, 3, 32, 32)
    assert batch.frame_mask.all()
    assert batch.text_mask.all()
    assert batch.text.shape[1] == engine.members[0].text.length
    assert (batch.text != engine.members[0].text.unknown).all()
    assert not torch.equal(batch.frames[0], batch.frames[1])


def test_the_operations_of_a_layer_are_those_of_its_formula(engine, batches):
    flops = count_flops(engine, batches)
    width, hidden, tokens = 16, 32, engine.members[0].text.length
    projections = 2 * tokens * width * (4 * width + 2 * hidden)
    attention = 2 * 2 * tokens**2 * width
    assert flops["text"] == projections + attention
    patches = 32 * 32 // 16**2
    rows = patches + 1
    convolution = 2 * patches * (3 * 16 * 16) * 16
    layer = 2 * rows * 16 * (4 * 16 + 2 * 64) + 2 * 2 * rows**2 * 16
    assert flops["vision"] == FRAMES * (convolution + layer + 2 * 16 * 8)
    assert flops["fuse"] > 0


def test_the_trunk_is_timed_apart_and_left_as_it_was(engine, batches):
    seconds = time_networks(engine, batches, 0.0)
    assert set(seconds) == {"vision", "text", "fuse"}
    assert all(value > 0 for value in seconds.values())
    assert "forward" not in vars(engine.members[0].model.trunk)


def test_every_stage_of_a_cpu_is_measured(kit, quick):  # noqa: F811
    report = serving_bench.bench_serving(open_kit(str(kit)), CPU, "auto", 1, frames=FRAMES)
    assert [stage.stage for stage in report.stages] == [s for s in SERVING_STAGES if s != "copy"]
    assert {stage.resource for stage in report.stages} == {"CPU"}
    assert [stage.stage for stage in report.stages if stage.share is None] == [
        "tokenize",
        "collate",
    ]
    assert report.bound == pytest.approx(1 / sum(1 / stage.videos for stage in report.stages))
    assert report.frames == FRAMES
    assert report.path > 0
    assert report.machine["threads"] == 1
    assert report.openvino.stages == []
    assert "run: pip install 'wbdc[openvino]'" in report.openvino.reason


PEAKS = Peaks(flops=100.0, memory=50.0, entropy=10.0, device_copy=None)
WORK = {"vision": 60.0, "text": 20.0, "fuse": 10.0}


def test_openvino_takes_the_place_of_the_networks_alone(monkeypatch, tmp_path):
    """Of .5 s by torch on the CPU, .3 are networks, which take .1 by OpenVINO."""
    by_torch = [rate("read", "CPU", 5.0), *(rate(name, "CPU", 10.0) for name in WORK)]
    engine = SimpleNamespace(device=CPU, precision=torch.float32, threads=1)
    module = "wbdc.bench.openvino_rates"
    monkeypatch.setattr(f"{module}.is_openvino_installed", lambda: True)
    monkeypatch.setattr(f"{module}.InferenceEngine", lambda *words, uses_openvino: engine)
    monkeypatch.setattr(f"{module}.time_converted", lambda *words: {"vision": 0.06, "score": 0.04})
    rates = measure_openvino(tmp_path, engine, {}, 1.0, WORK, PEAKS, by_torch)
    assert rates.speedup == pytest.approx(3)
    assert (rates.bound, rates.bound_by) == (pytest.approx(1 / 0.3), "CPU")
    assert [(one.stage, one.resource, one.rate) for one in rates.stages] == [
        ("vision", "CPU", pytest.approx(1000)),
        ("score", "CPU", pytest.approx(750)),
    ]
    engine.device = torch.device("cuda")
    assert measure_openvino(tmp_path, engine, {}, 1.0, WORK, PEAKS, by_torch) is None


def test_a_network_that_openvino_refuses_has_a_reason_and_no_rows(monkeypatch, tmp_path):
    def refuse(*words: object, uses_openvino: bool) -> None:
        raise UsageFault("OpenVINO cannot convert it")

    monkeypatch.setattr(openvino_rates, "is_openvino_installed", lambda: True)
    monkeypatch.setattr(openvino_rates, "InferenceEngine", refuse)
    engine = SimpleNamespace(device=CPU, precision=torch.float32, threads=1)
    rates = measure_openvino(tmp_path, engine, {}, 1.0, WORK, PEAKS, [])
    assert rates == OpenVinoRates([], reason="OpenVINO cannot convert it")


@pytest.mark.slow
@pytest.mark.skipif(not is_openvino_installed(), reason="OpenVINO is not installed")
def test_openvino_is_measured_where_it_is_installed(kit, quick, monkeypatch):  # noqa: F811
    monkeypatch.setattr(openvino_rates, "is_openvino_installed", lambda: True)
    report = serving_bench.bench_serving(open_kit(str(kit)), CPU, "fp32", 1, frames=FRAMES)
    assert report.openvino.reason == ""
    assert [one.stage for one in report.openvino.stages] == ["vision", "score"]
    assert all(one.videos > 0 for one in report.openvino.stages)
    assert report.openvino.speedup > 0


@pytest.fixture
def report(monkeypatch) -> BenchReport:
    """A report that the command prints without measuring."""
    share = {"tokenize": None}
    stages = [rate(s, k.resource or "GPU", 2e4) for s, k in SERVING_STAGES.items()]
    stages = [
        s._replace(
            unit=SERVING_STAGES[s.stage].unit,
            rate=3.21e13 if "FLOP" in SERVING_STAGES[s.stage].unit else 64_000.0,
            share=share.get(s.stage, 0.615),
        )
        for s in stages
    ]
    report = BenchReport(
        kit="toy",
        machine={"processor": "X", "device": "Y", "threads": 2, "torch": "2"},
        precision="bf16",
        frames=16,
        batch=64,
        peaks=Peaks(7e14, 1e11, 5e4, 2.5e10),
        stages=stages,
        bound=1500.0,
        bound_by="GPU",
        path=1200.0,
        openvino=OpenVinoRates(
            [
                StageRate("vision", "CPU", 2e4, 3.21e13, "FLOP/s", 0.615),
                StageRate("score", "CPU", 2e4, 3.21e13, "FLOP/s", 0.615),
            ],
            1.254,
            1800.0,
            "CPU",
        ),
        other_load=0.4,
    )
    monkeypatch.setattr(serving_bench, "bench_serving", lambda *words, **settings: report)
    return report


def test_the_report_is_a_table_of_80_columns(report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = toys.wbdc("bench").stdout
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert len(rows) == len(SERVING_STAGES) + 2
    assert max(map(len, rows)) <= 80
    assert [row.split("│")[1].strip() for row in rows[-2:]] == [
        "image tower, OpenVINO",
        "text to head, OpenVINO",
    ]
    assert [
        cell.strip() for cell in rows[list(SERVING_STAGES).index("vision")].split("│")[1:-1]
    ] == [
        "image tower",
        "20,000",
        "32.1 TFLOP/s",
        "62%",
        "GPU",
    ]
    assert "Bound: 1,500 videos/s, the sum of the stages on the GPU.\n" in text
    assert "Whole path, measured: 1,200 videos/s, 80% of the bound.\n" in text
    assert "OpenVINO computes the networks 1.25 times as fast as torch" in text
    assert "bounds the whole path at 1,800 videos/s." in text
    assert "Other processes used 40% of the CPUs" in text


def test_the_report_says_why_openvino_has_no_rows(report, monkeypatch):
    without = report._replace(openvino=OpenVinoRates([], reason="OpenVINO is not installed"))
    monkeypatch.setattr(serving_bench, "bench_serving", lambda *words, **settings: without)
    assert "\nOpenVINO is not installed\n" in toys.wbdc("bench").stdout
    assert toys.run_json("bench")["openvino"]["stages"] == {}


def test_the_report_is_json(report):
    facts = toys.run_json("bench", "--device", "cpu")
    assert facts["stages"]["vision"]["share"] == 0.615
    assert facts["peaks"]["device_copy"] == 2.5e10
    assert facts["bound"] == 1500
    assert facts["openvino"]["speedup"] == 1.254
    assert facts["openvino"]["stages"]["score"]["videos"] == 2e4
    assert set(facts) == set(report._fields)


def test_a_gpu_has_a_resource_and_a_copy_of_its_own(engine, monkeypatch):
    monkeypatch.setattr(engine, "device", torch.device("cuda"))
    measured = Peaks(flops=100.0, memory=50.0, entropy=10.0, device_copy=40.0)
    stages = {s: rate_stage(s, 0.5, 10.0, engine, measured) for s in SERVING_STAGES}
    assert stages["vision"].resource == "GPU"
    assert stages["copy"].resource == "copy engine"
    assert stages["decode"].resource == "CPU"
    assert stages["vision"].share == pytest.approx(10 / 0.5 / 100)
    assert stages["copy"].share == pytest.approx(10 / 0.5 / 40)
    assert stages["read"].videos == 2


def test_full_size_needs_no_weights(monkeypatch):
    monkeypatch.delenv("WBDC_WEIGHTS", raising=False)
    full = open_kit("dual_stream")
    trunk, _ = random_member._trunk_settings(full.tables)
    vision = random_member.random_vision_table(full.tables["vision"])
    assert (trunk["hidden_size"], trunk["num_hidden_layers"]) == (768, 12)
    assert vision["architecture"]["vision_cfg"]["patch_size"] == 32
    assert not {"model", "weights"} & set(vision)


def test_a_video_encoder_needs_only_its_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    settings = {"size": 32, "crop_size": 32, "image_mean": [0.5] * 3, "image_std": [1] * 3}
    tower = toys.VISIONS["transformers_video"]
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "video" / "config.json").write_text(json.dumps(tower["architecture"]))
    table = {"use": "transformers_video", "model": "toys/video", "frames": 4}
    vision = build_plug(visions, random_member.random_vision_table(table))
    assert vision.image_settings.size == 32
    assert vision.tower.config.hidden_size == 16


@pytest.mark.parametrize("change", ['vision={use="features", dim=8}', None])
def test_a_kit_without_a_tower_is_refused(kit, change, tmp_path):  # noqa: F811
    opened = open_kit(str(kit), changes=(change,)) if change else open_kit("ngrams")
    with pytest.raises(UsageFault, match="has no vision tower to measure; give a kit"):
        random_member.write_random_member(tmp_path / "member", opened, None)


def test_data_are_read_instead_of_generated_videos(kit, quick, tmp_path):  # noqa: F811
    opened = open_kit(str(kit))
    data = small.root(tmp_path / "data")
    videos = serving_bench._read_videos(opened, data)
    assert [video.id for video in videos] == small.ids("labeled")[: serving_bench.VIDEOS]
    with pytest.raises(DataFault):
        serving_bench._read_videos(opened, tmp_path / "nothing")


def test_data_without_a_frame_are_refused(engine, tmp_path):
    videos = [Video("1", {}, None, Source(tmp_path / "missing.zip"))]
    with pytest.raises(DataFault, match="have no frame that can be read; `wbdc prepare"):
        serving_bench._read_all_frames(engine, videos)

"""What a submission's predictions are compared with before it is published."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wbdc.core.errors import ResultFault, UsageFault
from wbdc.serve.blend_file import Blend
from wbdc.submit import pipeline
from wbdc.submit.pipeline import SubmissionSource, SubmitOptions

PREPARED = SimpleNamespace(contest=None)
SOURCE = SubmissionSource(
    Path(), Blend("wechat2022", "bf16", (), openvino=True), PREPARED, Path(), {}
)


@pytest.mark.parametrize(("changed", "is_refused"), [(1, False), (2, True)])
def test_openvino_may_change_one_percent_of_the_predictions(monkeypatch, changed, is_refused):
    by_openvino = np.tile(np.array([0.9, 0.1], np.float32), (100, 1))
    by_torch = by_openvino.copy()
    by_torch[:changed] = (0.1, 0.9)
    packed = SimpleNamespace(probabilities=by_openvino)
    monkeypatch.setattr(pipeline, "draw_test_ids", lambda *_: [str(i) for i in range(100)])
    monkeypatch.setattr(pipeline, "predict_packed", lambda *_, **__: packed)
    monkeypatch.setattr(
        pipeline,
        "_predict_runs",
        lambda source, options: by_openvino if source.blend.openvino else by_torch,
    )
    messages = []

    def prove() -> dict:
        return pipeline.prove_equal_predictions(
            Path(), SOURCE, device="cpu", threads=1, log=messages.append
        )

    if is_refused:
        with pytest.raises(ResultFault, match=r"change 2.0% .*more than 1%; pack with --no-open"):
            prove()
    else:
        assert prove()["changed_by_openvino"] == 0.01
        assert "networks that OpenVINO computes change 1.00% of these predictions" in messages


def test_compile_is_refused_for_an_ensemble_with_openvino(tmp_path):
    quiet = (lambda *counts: None, lambda line: None)
    with pytest.raises(UsageFault, match="--compile, or add --no-openvino"):
        pipeline.make_submission(tmp_path / "out", SOURCE, SubmitOptions(compiled=True), *quiet)
    assert not (tmp_path / "out").exists()

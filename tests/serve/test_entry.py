"""The entry point of a submission: errors of its command line."""

import json
import time

import pytest

from wbdc.serve.entry import main


@pytest.mark.parametrize(
    "words",
    [
        ("--threads", "-3"),
        ("--threads", "0"),
        ("--threads", "9" * 30),
        ("--threads", "x"),
        ("--deadline", "nan"),
        ("--deadline", "-1"),
    ],
)
def test_an_invalid_number_is_exit_2(tmp_path, capsys, words):
    (tmp_path / "blend.json").write_text(
        json.dumps({"competition": "wechat2022", "precision": "fp32", "members": []})
    )
    with pytest.raises(SystemExit) as exit_info:
        main(tmp_path, time.perf_counter(), list(words))
    assert exit_info.value.code == 2
    assert f"argument {words[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--data", "/nowhere"), 2, "/nowhere is not a folder"),
        (("--data", ".", "--out", "/proc/nowhere/x"), 7, "cannot be written"),
        (("--timings", "/proc/nowhere/x"), 7, "cannot be written"),
        (("--probabilities", "."), 2, ". is a folder"),
    ],
)
def test_unusable_paths_are_refused_before_a_model_is_loaded(
    tmp_path, capsys, words, code, message
):
    (tmp_path / "blend.json").write_text(
        json.dumps({"competition": "wechat2022", "precision": "fp32", "members": []})
    )
    assert main(tmp_path, time.perf_counter(), list(words)) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1

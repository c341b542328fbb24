"""The judge's entry: what its command line refuses."""

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
def test_a_number_that_makes_no_sense_is_exit_2(tmp_path, capsys, words):
    (tmp_path / "blend.json").write_text(
        json.dumps({"competition": "wechat2022", "precision": "fp32", "members": []})
    )
    with pytest.raises(SystemExit) as ended:
        main(tmp_path, time.perf_counter(), list(words))
    assert ended.value.code == 2
    assert f"argument {words[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--data", "/nowhere"), 2, "/nowhere is not a folder"),
        (("--data", ".", "--out", "/proc/nowhere/x"), 7, "cannot be written"),
        (("--timings", "/proc/nowhere/x"), 7, "cannot be written"),
        (("--probabilities", "."), 2, ". is a folder"),
    ],
)
def test_paths_that_cannot_be_used_are_refused_before_a_model_is_loaded(
    tmp_path, capsys, words, code, said
):
    (tmp_path / "blend.json").write_text(
        json.dumps({"competition": "wechat2022", "precision": "fp32", "members": []})
    )
    assert main(tmp_path, time.perf_counter(), list(words)) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert len(err.splitlines()) == 1

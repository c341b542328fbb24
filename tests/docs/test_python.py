"""The code of docs/python.md runs, on a toy run."""

import re
import shutil
from pathlib import Path

import toys

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_code_of_the_page_runs(fresh, kit, data, tmp_path, monkeypatch, capsys):
    trained = toys.run_json(
        "train",
        *("--kit", kit, "--work", fresh, "--fold", 0, "--threads", 1),
        *("--set", "train.epochs=1"),
    )
    monkeypatch.chdir(tmp_path)
    assert Path("work").resolve() == fresh.resolve()
    shutil.copyfile(next(data.glob("zip_frames/test/*/*.zip")), "new.zip")

    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert len(blocks[0].split("run = wbdc.open_run(")[1].strip().splitlines()) <= 11
    code = "\n".join(blocks).replace("dual_stream-1a2b3c4d", trained["run"])
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # the documented code itself

    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6
    assert printed[0].split()[0] in names["run"].classes

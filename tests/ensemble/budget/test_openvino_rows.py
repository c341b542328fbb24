"""A search within a limit that tries OpenVINO: what it does where that fails, and its costs."""

from types import SimpleNamespace

import pytest
import torch

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.ensemble.budget import budget_search, cost
from wbdc.ensemble.budget.budget_search import BudgetOptions, _openvino_option
from wbdc.ensemble.out_of_fold import ServingHardware

CPU = torch.device("cpu")
PRECISIONS = (torch.float32, torch.bfloat16)
ROWS = [ServingHardware(CPU, dtype, 1, by) for by in (False, True) for dtype in PRECISIONS]


@pytest.fixture
def search(monkeypatch):
    """Return a function that searches among `ROWS` and returns the rows that remain, and the log.

    `fails` returns the fault of a row, or None.
    """

    def search(fails, requires_openvino=False) -> tuple[list[ServingHardware], list[str]]:
        def predict(variant, data, contest, hardware, progress, *, training_precision):
            if fault := fails(hardware):
                raise fault

        for name, replacement in {
            "out_of_fold_predictions": predict,
            "measure_start": lambda openvino: 0.0,
            "measure_costs": lambda *inputs, **settings: None,
            "_sample": lambda *inputs: ([], 0.0),
            "_variants": lambda *inputs: [],
            "_search": lambda hardware, *inputs: hardware,
        }.items():
            monkeypatch.setattr(budget_search, name, replacement)
        options = BudgetOptions(1.0, 1, requires_openvino=requires_openvino)
        member, logged = SimpleNamespace(name="a", run=None), []
        inputs = ([member], None, ROWS, options, None, logged.append, None)
        return budget_search._search_precisions(*inputs), logged

    return search


def test_openvino_is_left_out_where_it_fails(search):
    def lacks_bf16(hardware):
        is_bf16 = hardware.openvino and hardware.precision == torch.bfloat16
        return EnvironmentFault("no BF16") if is_bf16 else None

    def cannot_convert(hardware):
        return UsageFault("cannot convert") if hardware.openvino else None

    rows, logged = search(lacks_bf16)
    assert rows == ROWS[:3]
    assert logged == ["OpenVINO in bf16 is left out of the search: no BF16"]
    rows, logged = search(cannot_convert)
    assert rows == ROWS[:2]
    assert len(logged) == 2


def test_faults_of_torch_and_of_what_was_requested_are_raised(search):
    with pytest.raises(UsageFault, match="of torch"):
        search(lambda hardware: None if hardware.openvino else UsageFault("of torch"))
    with pytest.raises(UsageFault, match="of OpenVINO"):
        search(lambda hardware: UsageFault("of OpenVINO") if hardware.openvino else None, True)


def test_the_recorded_command_tries_what_was_tried():
    assert _openvino_option(ROWS) == ["--openvino"]
    assert _openvino_option(ROWS[:3]) == [], "which would require BF16, too"
    assert _openvino_option(ROWS[:2]) == ["--no-openvino"]


def test_conversion_of_a_tower_is_timed_apart_from_the_models(monkeypatch):
    class Engine:
        def __init__(self, folders, *inputs, served):
            steps.append("load")
            self.members = [SimpleNamespace(frame_key="224")]
            self.towers = ["clip"]
            self.openvino_towers = {"clip": SimpleNamespace(seconds=70.0)}

    steps = []
    monkeypatch.setattr(cost, "InferenceEngine", Engine)
    monkeypatch.setattr(cost, "import_openvino", lambda: steps.append("import"))
    stages = dict.fromkeys(("read", "vision", "member"), 0.0)
    monkeypatch.setattr(cost, "_stage_seconds", lambda engine, videos: stages)
    run = SimpleNamespace(serve={}, models=lambda: {"a": None, "b": None})
    measured = cost.measure_costs([run], [], ROWS[2], fixed=0.0, progress=lambda *done: None)
    assert steps == ["import", "load", "load"]
    loading = [seconds for _, seconds, _ in measured.member.values()]
    assert loading == pytest.approx([-70.0, -70.0], abs=5)
    assert measured.seconds("ab", 0) == pytest.approx(sum(loading) + 70)

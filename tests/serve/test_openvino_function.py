"""Functions that OpenVINO computes: equal to torch's but for rounding, or refused."""

import os
import signal
import sys

import pytest
import torch
from torch import nn

from wbdc.core.device import _has_bf16_cpu
from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.serve.openvino_function import (
    OPENVINO_PRECISIONS,
    OpenVinoFunction,
    check_openvino,
    is_openvino_installed,
)

needs_openvino = pytest.mark.skipif(
    not is_openvino_installed(), reason="OpenVINO is not installed: pip install 'wbdc[openvino]'"
)
CPU = torch.device("cpu")


def converted(function, weights=None) -> OpenVinoFunction:
    """Convert a function of (B, 16) for batches of 2, checked on 3."""
    generator = torch.Generator().manual_seed(0)
    examples = [(torch.randn(count, 16, generator=generator),) for count in (2, 3)]
    return OpenVinoFunction(function, weights or nn.Module(), examples, 1, "a toy")


@needs_openvino
@torch.no_grad()
def test_results_are_those_of_torch_for_any_size():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 8))
    function, twin = converted(layers, layers), converted(layers, layers)
    x = torch.randn(33, 16)
    for one in (function, twin):
        one.use_precision(torch.float32)
    torch.testing.assert_close(function(x), layers(x), rtol=0, atol=1e-6)
    assert torch.equal(function(x), twin(x)), "the same bits each time"
    assert torch.equal(function(x.T.contiguous().T), function(x)), "also for strided inputs"
    assert function._selected.get_property("INFERENCE_NUM_THREADS") == 1

    if _has_bf16_cpu():
        function.use_precision(torch.bfloat16)
        error = (function(x) - layers(x)).norm() / layers(x).norm()
        assert 1e-5 < error < 0.02, "rounded to BF16"
    else:
        with pytest.raises(EnvironmentFault, match="computes in f32 on this CPU, not in bf16"):
            function.use_precision(torch.bfloat16)


@needs_openvino
def test_a_function_that_is_not_what_was_traced_is_refused():
    """`len` is a Python number, so the size of the first example stays in the function."""
    function = converted(lambda x: x * len(x))
    with pytest.raises(
        UsageFault, match="other results than torch for a toy; pass --no-openvino to wbdc ensemble"
    ):
        function.use_precision(torch.float32)


@needs_openvino
def test_a_function_that_cannot_be_converted_is_refused():
    with pytest.raises(UsageFault, match="cannot convert a toy: .*bessel"):
        converted(torch.special.bessel_j0)


@needs_openvino
def test_each_precision_is_compiled_once(monkeypatch):
    monkeypatch.setitem(OPENVINO_PRECISIONS, torch.bfloat16, "f32")  # also without BF16
    function = converted(torch.relu)
    selected = []
    for precision in (torch.bfloat16, torch.float32, torch.bfloat16):
        function.use_precision(precision)
        selected.append(function._selected)
    assert selected[0] is selected[2] is not selected[1]


def takes_a_signal() -> bool:
    """Return whether a handler of Python runs in a copy of this process."""
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGUSR1, lambda number, frame: os._exit(0))
        signal.raise_signal(signal.SIGUSR1)
        os._exit(1)
    return os.waitpid(process, 0)[1] == 0


@needs_openvino
def test_signals_are_handled_after_models_end_in_any_order():
    """Each core of OpenVINO brings a stack for handlers, which ends with its models."""
    first, second = converted(torch.relu), converted(torch.relu)
    for function in (first, second):
        function.use_precision(torch.float32)
    del first, second, function
    assert takes_a_signal()


@needs_openvino
def test_fp16_is_refused():
    with pytest.raises(UsageFault, match="in fp32 or bf16, not in fp16"):
        converted(torch.relu).use_precision(torch.float16)


def test_without_openvino_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = (
        r"OpenVINO, which cannot be imported \(import of openvino halted; .*\); run: pip install "
        r"'wbdc\[openvino\]', or in a packed submission: pip install -r requirements.txt$"
    )
    with pytest.raises(EnvironmentFault, match=message):
        check_openvino(CPU)


def test_what_openvino_cannot_be_combined_with_is_refused():
    with pytest.raises(UsageFault, match="--compile and --openvino are mutually exclusive"):
        check_openvino(CPU, compiled=True)
    with pytest.raises(UsageFault, match="computes on the CPU and not on cuda:1; use --device cpu"):
        check_openvino(torch.device("cuda:1"))

"""Functions of networks, converted from torch and computed on a CPU by OpenVINO."""

import functools
import importlib.util
import time
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from wbdc.core.device import precision_name
from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.serve.cuda_graphs import TensorFunction

OPENVINO_PACKAGE = "openvino"
OPENVINO_COMMAND = "pip install 'wbdc[openvino]'"
OPENVINO_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
# of converted from torch's FP32 results, relative: more is no rounding, but another function
MAX_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1}
MAX_MESSAGE_CHARACTERS = 300
WITHOUT_OPENVINO = "pass --no-openvino to wbdc ensemble, submit or predict"


def is_openvino_installed() -> bool:
    """Return whether the package is installed. It is not imported, which takes a second."""
    return importlib.util.find_spec(OPENVINO_PACKAGE) is not None


def import_openvino() -> ModuleType:
    """Import OpenVINO and its reader of torch's functions. Raises EnvironmentFault where that
    fails.
    """
    try:
        import openvino
        import openvino.frontend.pytorch.ts_decoder
    except ImportError as error:
        message = " ".join(str(error).split())[:MAX_MESSAGE_CHARACTERS]
        raise EnvironmentFault(
            f"these models are served with OpenVINO, which cannot be imported ({message}); run: "
            f"{OPENVINO_COMMAND}, or in a packed submission: pip install -r requirements.txt"
        ) from error
    return openvino


@functools.cache
def openvino_core() -> Any:
    """Return the one `openvino.Core` of this process, which lives as long as the process.

    A core gives its thread a stack for signal handlers, and takes it away when it ends. Of several
    cores that end in another order than they began, one leaves a stack that is freed: the next
    signal, a Ctrl-C for example, would end the process.
    """
    return import_openvino().Core()


def check_openvino(device: torch.device, compiled: bool = False) -> None:
    """Refuse what OpenVINO cannot be combined with. Raises UsageFault, EnvironmentFault."""
    if compiled:
        raise UsageFault(
            "--compile and --openvino are mutually exclusive; leave out --compile, or add "
            "--no-openvino"
        )
    if device.type != "cpu":
        raise UsageFault(
            f"these models are served with OpenVINO, which computes on the CPU and not on {device};"
            " use --device cpu or auto"
        )
    import_openvino()


class OpenVinoFunction:
    """A function of CPU tensors that returns one, for inputs of any size. It computes in FP32 or
    BF16, from FP32 weights, and its results are FP32.

    function: traced with the first of `examples`, so its branches must not depend on sizes or
    values. weights: the module whose parameters it uses. examples: tuples of inputs; what is
    converted is compared with torch on the others, which should have other sizes. threads: that it
    may use. name: of the function, for errors.

    Equal inputs, threads and processors give equal bits. Raises UsageFault for a function that
    cannot be converted.

    seconds: that the conversion, compilation and checks took so far.
    """

    def __init__(
        self,
        function: TensorFunction,
        weights: nn.Module,
        examples: Sequence[tuple[Tensor, ...]],
        threads: int,
        name: str,
    ):
        self.name = name
        self.threads = threads
        import_openvino()
        start = time.perf_counter()
        with torch.no_grad():
            self._checks = [(inputs, function(*inputs).float()) for inputs in examples[1:]]
            self._model = self._convert(function, weights, examples[0])
        self.seconds = time.perf_counter() - start
        self._compiled: dict[torch.dtype, Any] = {}
        self._selected = None  # one of them

    def use_precision(self, precision: torch.dtype) -> None:
        """Compute in a precision from now on. It is called before the function; each precision is
        compiled once.

        Raises EnvironmentFault for a precision that this CPU does not compute, UsageFault when
        results differ from those of torch by more than rounding.
        """
        if precision not in self._compiled:
            start = time.perf_counter()
            compiled = self._compile(precision)
            for inputs, expected in self._checks:
                self._check_result(_compute(compiled, inputs), expected, MAX_ROUNDING[precision])
            self._compiled[precision] = compiled
            self.seconds += time.perf_counter() - start
        self._selected = self._compiled[precision]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return float32 results of CPU tensors."""
        return _compute(self._selected, inputs)

    def _compile(self, precision: torch.dtype) -> Any:
        """Return OpenVINO's compiled model. Raises EnvironmentFault, UsageFault."""
        if precision not in OPENVINO_PRECISIONS:
            raise UsageFault(
                f"OpenVINO computes in fp32 or bf16, not in {precision_name(precision)}; choose "
                "one of them with --precision"
            )
        requested = OPENVINO_PRECISIONS[precision]
        compiled = openvino_core().compile_model(
            self._model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": requested,
                "INFERENCE_NUM_THREADS": self.threads,
                "NUM_STREAMS": 1,
                "ENABLE_HYPER_THREADING": True,  # all threads, also where two share a core
                # other processes and the threads that read may use the same cores
                "ENABLE_CPU_PINNING": False,
            },
        )
        actual_precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if actual_precision != requested:
            raise EnvironmentFault(
                f"OpenVINO computes in {actual_precision} on this CPU, not in {requested}; choose "
                "fp32 with --precision"
            )
        return compiled

    def _convert(
        self, function: TensorFunction, weights: nn.Module, example: tuple[Tensor, ...]
    ) -> object:
        """Return OpenVINO's model of a function. Its `convert_model` would do the same, and report
        the use of it to Intel.
        """
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        function(*example)  # fills caches, which are no part of the function
        try:
            with warnings.catch_warnings():
                # of traces that hold for one size only, which `_check_result` finds
                warnings.simplefilter("ignore")
                traced = torch.jit.trace(_Traced(function, weights), example, check_trace=False)
            decoder = TorchScriptPythonDecoder(traced)  # is read until the conversion ends
            frontend = FrontEndManager().load_by_framework("pytorch")
            return frontend.convert(frontend.load(decoder))
        except MemoryError:
            raise
        except Exception as error:  # OpenVINO raises many types
            message = " ".join(str(error).split())[:MAX_MESSAGE_CHARACTERS]
            raise UsageFault(
                f"OpenVINO cannot convert {self.name}: {message}; {WITHOUT_OPENVINO}"
            ) from error

    def _check_result(self, result: Tensor, expected: Tensor, tolerance: float) -> None:
        """Refuse what is not the function that was converted: torch traces it with one example,
        and sizes of the example that a plug turns into Python numbers stay in it.
        """
        fits = result.shape == expected.shape
        error = (result - expected).norm() if fits else expected.new_tensor(torch.inf)
        if not error <= tolerance * expected.norm():  # also for NaN
            raise UsageFault(
                f"OpenVINO computes other results than torch for {self.name}; {WITHOUT_OPENVINO}"
            )


def _compute(compiled: Any, inputs: Sequence[Tensor]) -> Tensor:
    """Return the result of a compiled model."""
    arrays = [tensor.contiguous().numpy() for tensor in inputs]
    return torch.from_numpy(compiled(arrays, share_inputs=True)[0])


class _Traced(nn.Module):
    """A function as a module, whose parameters are not copied into the trace."""

    def __init__(self, function: TensorFunction, weights: nn.Module):
        super().__init__()
        self.weights = weights
        self.function = function
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)

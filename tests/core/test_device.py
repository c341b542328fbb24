"""Device and precision: found or refused, never replaced silently."""

import pytest
import torch

from wbdc.core import device
from wbdc.core.errors import EnvironmentFault, UsageFault

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpus(monkeypatch):
    def set_count(count: int):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return set_count


def test_auto_uses_the_available_device(gpus):
    gpus(0)
    assert device.find_device() == CPU
    gpus(1)
    assert device.find_device() == GPU
    assert device.find_device("cpu") == CPU


def test_each_rank_uses_its_own_gpu(gpus, monkeypatch):
    gpus(2)
    devices = []
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        devices.append(device.find_device())
    assert devices == [torch.device("cuda:0"), torch.device("cuda:1"), torch.device("cuda:0")]


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (0, "cuda", "torch finds no GPU"),
        (0, "cuda:0", "torch finds no GPU"),
        (1, "cuda:1", "torch finds 1 GPU"),
    ],
)
def test_fault_36_a_missing_gpu_is_exit_7(gpus, count, name, message):
    gpus(count)
    with pytest.raises(
        EnvironmentFault, match=f"device {name} was requested, but {message}.*--device cpu"
    ) as caught:
        device.find_device(name)
    assert caught.value.code == 7


@pytest.mark.parametrize("name", ["gpu", "cud", ""])
def test_an_unknown_device_is_a_fault_of_usage(name):
    with pytest.raises(UsageFault, match=f"no device called '{name}'"):
        device.find_device(name)


@pytest.mark.parametrize(
    ("hardware", "bf16", "precision"),
    [(GPU, False, torch.float16), (CPU, True, torch.bfloat16), (CPU, False, torch.float32)],
)
def test_auto_precision(monkeypatch, hardware, bf16, precision):
    monkeypatch.setattr(device, "_has_bf16_cpu", lambda: bf16)
    assert device.find_precision("auto", hardware) == precision


@pytest.mark.parametrize(
    ("hardware", "bf16", "precision"),
    [(GPU, True, torch.bfloat16), (GPU, False, torch.float16), (CPU, True, torch.bfloat16)],
)
def test_auto_precision_of_a_training(monkeypatch, hardware, bf16, precision):
    monkeypatch.setattr(device, "_has_bf16_cpu", lambda: bf16)
    # a V100 emulates BF16
    supported = lambda including_emulation=True: bf16 or including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert device.find_training_precision("auto", hardware) == precision
    assert device.find_training_precision("fp16", GPU) == torch.float16


@pytest.mark.parametrize("name", device.PRECISIONS)
def test_precision_by_name(name):
    assert device.precision_name(device.find_precision(name, GPU)) == name


SENSELESS = {
    "fp61": "no precision called 'fp61'; did you mean 'fp16'",
    "half": "it may be one of: auto, fp32, fp16, bf16",
    "fp16": "fp16 on a CPU is slower",
}


@pytest.mark.parametrize("name", SENSELESS)
def test_unknown_precisions_and_fp16_on_a_cpu_are_refused(name):
    with pytest.raises(UsageFault, match=SENSELESS[name]):
        device.find_precision(name, CPU)


def test_autocast_changes_the_block_and_not_the_weights():
    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with device.autocast(CPU, torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with device.autocast(CPU, torch.float32):
        assert layer(x).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


def test_threads_are_set_and_returned():
    before = torch.get_num_threads()
    try:
        assert device.use_threads(2) == 2 == torch.get_num_threads()
        assert device.use_threads(None) == torch.get_num_threads() >= 1
    finally:
        torch.set_num_threads(before)


def test_fp32_is_not_rounded_to_tf32_unless_it_is_asked_for():
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    device.use_tf32(True)
    assert [flag.allow_tf32 for flag in flags] == [True, True]
    device.find_device("cpu")
    assert [flag.allow_tf32 for flag in flags] == [False, False]

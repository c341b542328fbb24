"""The device of a plan is that of the command, and torch is asked only where there may be a GPU."""

from types import SimpleNamespace

import pytest
import torch

from wbdc.core import planned_device
from wbdc.core.errors import UsageFault
from wbdc.core.planned_device import CpuDevice, plan_device


@pytest.fixture
def without_torch(monkeypatch):
    """As in a process that has not imported torch."""
    monkeypatch.setattr(planned_device, "sys", SimpleNamespace(modules={}))


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("has_driver", [False, True])
def test_torch_is_asked_where_there_may_be_a_gpu(has_driver, monkeypatch):
    monkeypatch.setattr(planned_device, "has_gpu_driver", lambda: has_driver)
    monkeypatch.setattr("wbdc.core.device.find_device", lambda name: f"asked for {name}")
    assert plan_device("auto") == ("asked for auto" if has_driver else CpuDevice())
    assert plan_device("cpu") == CpuDevice()
    assert plan_device("cuda:1") == "asked for cuda:1"


def test_the_cpu_has_the_name_and_the_type_of_torch():
    device = torch.device("cpu")
    assert (str(CpuDevice()), CpuDevice().type) == (str(device), device.type)


@pytest.mark.usefixtures("without_torch")
def test_an_unknown_name_is_refused_as_by_torch():
    with pytest.raises(UsageFault, match="no device called 'gpu'"):
        plan_device("gpu")


def test_a_driver_is_found_by_its_library(monkeypatch, tmp_path):
    monkeypatch.setattr(planned_device, "AMD_DRIVER", tmp_path / "kfd")
    monkeypatch.setattr(planned_device, "CUDA_DRIVER", "libm.so.6")
    assert planned_device.has_gpu_driver()
    monkeypatch.setattr(planned_device, "CUDA_DRIVER", "libno-such-driver.so.1")
    assert not planned_device.has_gpu_driver()
    (tmp_path / "kfd").touch()
    assert planned_device.has_gpu_driver()

"""What is asked for by name is had or refused; auto falls back and says so once."""

import sys
from types import SimpleNamespace

import pytest
import torch

from lsp_fast import backends
from lsp_fast.agents import Agent
from lsp_fast.backends import cpp, registry
from lsp_fast.config import make_config
from lsp_fast.errors import BackendUnavailable, ConfigError


@pytest.fixture(autouse=True)
def fresh():
    registry._auto.cache_clear()
    yield
    registry._auto.cache_clear()


def test_backends_by_name():
    assert backends.get("reference").name == "reference"
    with pytest.raises(ConfigError, match="fpga"):
        backends.get("fpga")
    with pytest.raises(BackendUnavailable, match="GPU"):
        backends.get("triton", "cpu")
    with pytest.raises(BackendUnavailable, match="processor"):
        backends.get("cpp", "cuda")


def test_auto_takes_the_extension_where_it_is_built(monkeypatch):
    monkeypatch.setattr(cpp, "load", lambda: SimpleNamespace(instruction_sets=lambda: ("portable",)))
    assert backends.get("auto").name == "cpp" and not backends.get("cpp").multiplies_bf16


def test_a_missing_extension_falls_back_once_and_is_an_error_by_name(monkeypatch):
    def missing():
        raise BackendUnavailable("no compiler was found")

    monkeypatch.setattr(cpp, "load", missing)
    with pytest.warns(UserWarning, match="no compiler was found") as warned:
        assert backends.get("auto").name == backends.get("auto").name == "reference"
    assert len(warned) == 1
    with pytest.raises(BackendUnavailable, match="no compiler"):
        backends.get("cpp")


def test_triton_without_its_package_says_so_and_auto_goes_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "lsp_fast.kernels.lambda_return", None)
    monkeypatch.delattr("lsp_fast.kernels.lambda_return", raising=False)
    with pytest.raises(BackendUnavailable, match="needs the triton package"):
        backends.get("triton", "cuda")
    with pytest.warns(UserWarning, match="needs the triton package"):
        assert backends.get("auto", "cuda").name == "reference"


def test_an_old_gpu_falls_back_to_pytorchs_operations(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(registry.torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(BackendUnavailable, match=r"8\.0.*7\.5"):
        backends.get("triton", "cuda")
    with pytest.warns(UserWarning, match="compute capability"):
        assert backends.get("auto", "cuda").name == "reference"


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_a_gpu_has_a_number(monkeypatch, name):
    # PyTorch sets the current device by number alone, so that every default run on a GPU would end there.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert backends.device(name) == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_an_agent_makes_its_gpu_the_current_one_by_number(monkeypatch, name):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    monkeypatch.setattr(torch, "zeros", lambda *shape, **where: where["device"])  # of the clock
    agent = SimpleNamespace()  # what all agents share needs no modules
    Agent.__init__(agent, 5, 2, make_config("smoke", device=name, backend="reference"))
    assert [device.index for device in chosen] == [1]
    assert agent.device == agent.env_steps == torch.device("cuda:1")


def test_triton_without_a_compiler_is_refused_before_its_first_launch(monkeypatch):
    pytest.importorskip("triton")

    def missing():
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(registry, "triton_driver", missing)
    with pytest.raises(BackendUnavailable, match=r"Failed to find C compiler.; it needs a C compiler and Python's"):
        backends.get("triton", "cuda:0")
    with pytest.warns(UserWarning, match="Failed to find C compiler"):
        assert backends.get("auto", "cuda:0").name == "reference"
    monkeypatch.setattr(registry, "triton_driver", lambda: SimpleNamespace(get_current_target=lambda: "sm_90"))
    assert backends.get("triton", "cuda:0").name == "triton"

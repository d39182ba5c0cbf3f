"""When Triton kernels are taken, and that every file of them is listed."""

import importlib
import inspect
import logging
import os
from contextlib import nullcontext
from pathlib import Path
from subprocess import CalledProcessError
from types import SimpleNamespace

import pytest
import torch

from diffnr_lightning import triton_kernels
from diffnr_lightning.triton_kernels import on_its_device, takes_triton, triton_modules


def test_tensors_on_the_cpu_are_left_to_others():
    assert not takes_triton(torch.zeros(2))


def test_a_missing_triton_is_named_once(monkeypatch, caplog):
    triton_kernels._has_triton.cache_clear()
    monkeypatch.setattr(triton_kernels.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING, "diffnr"):
        assert [takes_triton(torch.device("cuda")) for _ in range(2)] == [False, False]
    triton_kernels._has_triton.cache_clear()
    assert [record.message.count("pip install triton") for record in caplog.records] == [1]


def test_a_triton_that_cannot_be_imported_is_named_once(monkeypatch, caplog):
    """As one that was built for another Python, or against a newer C library."""

    def broken(name):
        raise ImportError("libtriton.so: version `GLIBC_2.38' not found")

    monkeypatch.setattr(triton_kernels.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(triton_kernels.importlib, "import_module", broken)
    triton_kernels._has_triton.cache_clear()
    with caplog.at_level(logging.WARNING, "diffnr"):
        assert [takes_triton(torch.device("cuda")) for _ in range(2)] == [False, False]
    triton_kernels._has_triton.cache_clear()
    (record,) = caplog.records
    assert "GLIBC_2.38" in record.message and "reinstall triton" in record.message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler"),
        CalledProcessError(1, ["gcc", "driver.c"]),
        ImportError("cuda_utils.so: undefined symbol"),
    ],
)
def test_a_triton_that_cannot_build_its_launcher_is_named_once(monkeypatch, caplog, error):
    class Driver:
        @property
        def active(self):
            raise error

    made_up = SimpleNamespace(runtime=SimpleNamespace(driver=Driver()))
    monkeypatch.setattr(triton_kernels.importlib.util, "find_spec", lambda name: made_up)
    monkeypatch.setattr(triton_kernels.importlib, "import_module", lambda name: made_up)
    triton_kernels._has_triton.cache_clear()
    with caplog.at_level(logging.WARNING, "diffnr"):
        assert [takes_triton(torch.device("cuda")) for _ in range(2)] == [False, False]
    triton_kernels._has_triton.cache_clear()
    (record,) = caplog.records
    assert str(error) in record.message and "a C compiler (gcc" in record.message


def test_every_file_of_kernels_is_listed():
    package = Path(triton_kernels.__file__).parent
    files = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for path in package.rglob("*_triton.py")
    }
    assert set(triton_modules()) == files


def test_kernels_are_interpreted_where_no_gpu_is():
    assert torch.cuda.is_available() or os.environ["TRITON_INTERPRET"] == "1"


def test_kernels_run_on_the_device_of_their_tensors(monkeypatch):
    # Triton launches on the current device, which need not be that of the tensors in a script.
    asked = []
    monkeypatch.setattr("torch.cuda.device_of", lambda of: asked.append(of) or nullcontext())
    tensor = torch.zeros(2)
    assert on_its_device(lambda given, more: (given, more))(tensor, more=3) == (tensor, 3)
    assert asked == [tensor]


# Those of Gaussians enter the device themselves.
@pytest.mark.parametrize("name", [name for name in triton_modules() if ".gaussians." not in name])
def test_every_function_that_is_given_a_tensor_enters_its_device(name):
    pytest.importorskip("triton")
    module = importlib.import_module(name)
    given_tensors = [
        function
        for word, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == name
        and not word.startswith("_")
        and "Tensor" in list(function.__annotations__.values())[:1]
    ]
    assert given_tensors
    assert all(hasattr(function, "__wrapped__") for function in given_tensors)

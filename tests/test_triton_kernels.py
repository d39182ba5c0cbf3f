"""When Triton kernels are taken, and that every file of them is listed."""

import logging
import os
from pathlib import Path

import torch

from diffnr_lightning import triton_kernels
from diffnr_lightning.triton_kernels import takes_triton, triton_modules


def test_tensors_on_the_cpu_are_left_to_others():
    assert not takes_triton(torch.zeros(2))


def test_a_missing_triton_is_named_once(monkeypatch, caplog):
    triton_kernels._has_triton.cache_clear()
    monkeypatch.setattr(triton_kernels.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING, "diffnr"):
        assert [takes_triton(torch.device("cuda")) for _ in range(2)] == [False, False]
    triton_kernels._has_triton.cache_clear()
    assert [record.message.count("pip install triton") for record in caplog.records] == [1]


def test_every_file_of_kernels_is_listed():
    package = Path(triton_kernels.__file__).parent
    files = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for path in package.rglob("*_triton.py")
    }
    assert set(triton_modules()) == files


def test_kernels_are_interpreted_where_no_gpu_is():
    assert torch.cuda.is_available() or os.environ["TRITON_INTERPRET"] == "1"

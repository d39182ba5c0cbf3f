from __future__ import annotations

import pytest
import torch

from diffnr_lightning.priors.slicefixers import memory
from diffnr_lightning.priors.slicefixers.memory import Load, free_bytes, refuse_too_large

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def free(monkeypatch):
    def say(gibibytes: float) -> None:
        monkeypatch.setattr(memory, "free_bytes", lambda device: int(gibibytes * GIB))

    return say


def test_needs_grow_with_the_batch_and_shrink_with_savings():
    one = Load(batch=1, pixels=512**2)
    assert one._replace(batch=4).bytes() == pytest.approx(4 * one.bytes())
    assert one._replace(precision="bfloat16").bytes() < one.bytes()
    assert one._replace(tile=256).bytes() < one.bytes() / 2
    training = one._replace(training=True)
    assert training.bytes() > 5 * one.bytes()
    assert training._replace(gradient_checkpointing=True).bytes() < training.bytes() / 3
    assert training._replace(tile=256).bytes() == training.bytes()


def test_the_full_size_needs_what_was_counted():
    assert Load(1, 512**2).bytes() / GIB == pytest.approx(1.9, abs=0.1)
    assert Load(1, 512**2, training=True).bytes() / GIB == pytest.approx(14.8, abs=0.2)


def test_what_fits_is_let_through(free):
    free(2)
    refuse_too_large(Load(1, 512**2), CPU)


@pytest.mark.parametrize(
    ("load", "gibibytes", "advice"),
    [
        (Load(16, 512**2), 16, "would fit with a batch size of 8"),
        (Load(1, 512**2), 1.5, "would fit with precision=bfloat16"),
        (Load(1, 512**2), 1.0, "would fit with tile=256"),
        (Load(4, 512**2), 0.5, "precision=bfloat16 and tile=256 and a batch size of 1"),
        (Load(1, 512**2, training=True), 6, "would fit with gradient_checkpointing=True"),
        (Load(1, 512**2), 0.1, "expected a device with more memory, or smaller slices"),
    ],
)
def test_the_refusal_names_the_setting_that_fits(free, load, gibibytes, advice):
    free(gibibytes)
    with pytest.raises(ValueError, match=advice) as caught:
        refuse_too_large(load, CPU)
    message = str(caught.value)
    assert "512 x 512 pixels" in message and "cpu has" in message and "\n" not in message


def test_the_advice_fits(free):
    free(1)
    fitting = Load(1, 512**2, tile=256)
    refuse_too_large(fitting, CPU)


def test_free_memory_of_this_machine_is_known():
    assert free_bytes(CPU) > 2**20
    assert free_bytes(torch.device("meta")) is None
    refuse_too_large(Load(10**6, 512**2), torch.device("meta"))

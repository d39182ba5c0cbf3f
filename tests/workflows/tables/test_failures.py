"""A run that fails leaves its error behind, and nothing of its memory."""

import traceback
import weakref

import pytest
import torch

from diffnr_lightning.workflows.tables.failures import Failures, is_failure


@pytest.mark.parametrize("out_of_memory", [False, True])
def test_what_a_failed_run_held_is_gone_before_the_next_one(out_of_memory):
    held = []

    def reconstruct():
        volume = torch.zeros(8)
        held.append(weakref.ref(volume))
        if out_of_memory:
            raise torch.OutOfMemoryError("no room")
        try:
            float("nothing")
        except ValueError as error:
            raise ValueError("of two errors, of which both have frames") from error

    failures = Failures("runs")
    with failures.kept("a run"):
        reconstruct()
    assert held[0]() is None
    cause = failures.errors[0].__cause__
    assert "reconstruct" in "".join(traceback.format_exception(cause))


def test_a_defect_is_no_failure():
    assert not is_failure(ZeroDivisionError())
    assert is_failure(torch.OutOfMemoryError())

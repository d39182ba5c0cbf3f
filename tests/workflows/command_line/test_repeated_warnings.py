import logging

import numpy as np
import pytest

from diffnr_lightning.workflows.command_line.repeated_warnings import each_warning_once

logger = logging.getLogger("diffnr")


def warn_of(name: str, share: float) -> None:
    logger.warning("%s: %.0f %% of the object is cut off", name, share)


def test_a_warning_is_said_once_whatever_its_numbers(caplog):
    with each_warning_once():
        for share in (40, 30.5, np.float32(20)):
            warn_of("fdk", share)
    assert caplog.messages == ["fdk: 40 % of the object is cut off"]


def test_warnings_of_other_things_and_of_the_next_scan_are_said(caplog):
    with each_warning_once():
        warn_of("fdk", 40)
        warn_of("fbp", 40)
        logger.warning("fdk: expect streaks")
    with each_warning_once():
        warn_of("fdk", 40)
    assert len(caplog.messages) == 4


def test_progress_is_said_each_time(caplog):
    with caplog.at_level(logging.INFO, logger="diffnr"), each_warning_once():
        logger.info("%d of %d", 1, 2)
        logger.info("%d of %d", 2, 2)
    assert caplog.messages == ["1 of 2", "2 of 2"]


def test_all_is_said_again_after_an_error(caplog):
    with pytest.raises(ValueError, match="stop"), each_warning_once():
        warn_of("fdk", 40)
        raise ValueError("stop")
    warn_of("fdk", 40)
    warn_of("fdk", 40)
    assert len(caplog.messages) == 3

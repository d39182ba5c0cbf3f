"""Pairs that are learned in seconds."""

import pytest
import torch


@pytest.fixture(scope="session")
def boxes(tmp_path_factory):
    """Two cases of boxes, and the boxes with streaks."""
    # Lightning imports Triton, which pytest may not do before the tests' own settings are made.
    from diffnr_lightning.data.slice_pairs import write_pairs

    folder = tmp_path_factory.mktemp("pairs")
    generator = torch.Generator().manual_seed(0)
    for case in ("one", "two"):
        clean = torch.full((4, 32, 32), 0.2)
        for z in range(4):
            top, left = torch.randint(2, 14, (2,), generator=generator)
            clean[z, top : top + 14, left : left + 14] = 0.7
        streaks = 0.15 * torch.sin(1.3 * torch.arange(32.0))
        write_pairs(
            folder,
            case,
            degraded=(clean + streaks)[None],
            clean=clean,
            biplanar=torch.rand(2, 16, 16, generator=generator),
            info={"case": case, "views": 24},
        )
    return folder

from __future__ import annotations

import pytest
import torch
from tiny_models import write_tiny_rad_dino, write_tiny_sd_turbo

from diffnr_lightning.priors import SliceFixer, biplanar_conditioning


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """The folder of a tiny SD-Turbo."""
    return write_tiny_sd_turbo(tmp_path_factory.mktemp("models") / "sd-turbo")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """The folder of a tiny RAD-DINO."""
    return write_tiny_rad_dino(tmp_path_factory.mktemp("models") / "rad-dino")


@pytest.fixture(scope="session")
def build(tiny_base, tiny_encoder):
    """Build a SliceFixer on the tiny models; everything trained is far from its first values."""

    def slicefixer(**options) -> SliceFixer:
        torch.manual_seed(1)
        prior = SliceFixer(str(tiny_base), str(tiny_encoder), **{"size": 32, **options})
        with torch.no_grad():
            for parameter in prior.trained().values():
                parameter.add_(0.02 * torch.randn_like(parameter))
        return prior.eval()

    return slicefixer


@pytest.fixture(scope="session")
def slicefixer(build):
    """A SliceFixer that no test may change; frozen, as a loaded one."""
    return build().requires_grad_(False)


@pytest.fixture
def told():
    """The conditioning of a scan of four views."""
    projections = torch.rand(4, 20, 24, generator=torch.Generator().manual_seed(2))
    return biplanar_conditioning(projections, torch.arange(4) * torch.pi / 4, size=28)

"""What is projected is the object that the truth shows."""

import numpy as np
import pytest

from diffnr_lightning.data import LoadedVolume, Noise, Scanner, ScanRecipe, simulate_case


@pytest.mark.parametrize("spacing_mm", [(3.3, 2.0, 2.0), (0.7, 0.6, 0.9)], ids=["coarse", "fine"])
def test_truth_and_projections_hold_the_mass_of_an_object_that_faces_cut(spacing_mm):
    """Parallel views sum up to the mass of what they see; faces lie within voxels, those of the simulation too."""
    shape = tuple(round(40 / edge) for edge in spacing_mm)
    block = LoadedVolume(np.zeros(shape, np.float32), spacing_mm, "HU", "block")
    scanner = Scanner(beam="parallel", detector=1.6, detector_pixels=64)
    recipe = ScanRecipe(30, 3, scanner=scanner, noise=Noise(mode="none"), test_views=0, margin=0.07)
    case = simulate_case(block, recipe)
    mass = np.prod(block.size_mm) * 1000 / 2024
    voxel = np.prod(case.grid.voxel_mm)
    pixel = np.linalg.norm(case.scan.u_mm[0]) * np.linalg.norm(case.scan.v_mm[0])
    assert float(case.volume.double().sum()) * voxel == pytest.approx(mass, rel=1e-5)
    seen = case.projections.double().sum(dim=(1, 2)).numpy() * pixel
    np.testing.assert_allclose(seen, mass, rtol=2e-3)

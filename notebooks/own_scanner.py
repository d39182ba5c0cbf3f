# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a scanner of your own to a volume
#
# A cone-beam scanner of a laboratory leaves a folder of images, some of them taken without the object
# (flat field) and without the beam (dark field), and a note of two distances. This page plays such a
# scanner, turns what it leaves into a case with `ingest`, and shows how wrong numbers look.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tifffile

from diffnr_lightning.data import MeasuredScanner, ScanRecipe, read_case
from diffnr_lightning.geometry import ScanGeometry, astra_vectors
from diffnr_lightning.projectors import project
from diffnr_lightning.reports import read_runs, read_volume
from diffnr_lightning.workflows import evaluate, ingest, reconstruct, simulate
from diffnr_lightning.workflows.command_line.config_files import shipped_config
from diffnr_lightning.workflows.command_line.settings import parse

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## What the scanner leaves
#
# Counts of 16 bits, 120 views around a generated chest that is as small as a walnut. The rotation axis does
# not fall on the middle of the detector, and no two pixels are equally sensitive.

# %%
chest = read_case(simulate("phantom:5", folder / "chest", ScanRecipe(size=48, num_views=2)))
scale = 40 / chest.grid.size_mm[0]
grid = type(chest.grid)(chest.grid.shape, tuple(scale * edge for edge in chest.grid.voxel_mm))
density = 0.06 * chest.volume  # 1/mm

VIEWS, AXIS = 120, 41.7
scan = ScanGeometry.cone(
    angles_rad=np.arange(VIEWS) * 2 * np.pi / VIEWS,
    source_to_axis_mm=66,
    source_to_detector_mm=132,
    detector_shape=(64, 96),
    pixel_mm=1.0,
    detector_offset_mm=(0.0, 47.5 - AXIS),
)
random = np.random.default_rng(0)
beam = 30_000 * (1 + 0.1 * random.random(scan.detector_shape))
through = random.poisson(beam * np.exp(-project(density, grid, scan).numpy()))

lab = folder / "lab"
(lab / "views").mkdir(parents=True)
(lab / "flats").mkdir()
for number, image in enumerate(through):
    tifffile.imwrite(lab / "views" / f"view_{number}.tif", (100 + image).astype(np.uint16))
for number in range(5):
    tifffile.imwrite(
        lab / "flats" / f"flat_{number}.tif", (100 + random.poisson(beam)).astype(np.uint16)
    )
tifffile.imwrite(lab / "dark.tif", np.full(scan.detector_shape, 100, np.uint16))

# %% [markdown]
# ## What `ingest` makes of it
#
# Every fourth view is reconstructed from, 20 of the others judge. Of a whole turn the rotation axis is found,
# from rays that were measured twice; the number of photons comes from the noise of the counts. On the
# command line:
#
#     diffnr ingest --projections lab/views --flat lab/flats --dark lab/dark.tif --source_to_axis_mm 66 \
#         --source_to_detector_mm 132 --pixel_mm 1 --step_deg 3 --held_out 20 --out right

# %%
known = {"source_to_axis_mm": 66, "source_to_detector_mm": 132, "pixel_mm": 1.0, "step_deg": 3.0}


def ingested(name, **more):
    fields = {"flat": lab / "flats", "dark": lab / "dark.tif", "held_out": 20}
    return ingest(lab / "views", folder / name, MeasuredScanner(**(known | more)), **fields)


right = read_case(ingested("right"))
print(right.scan)
print("axis at column", round(right.provenance["axis_column"], 2))
print("photons without object", round(float(right.photons.air.median())))
assert abs(right.provenance["axis_column"] - AXIS) < 0.2

# %% [markdown]
# ## Does FDK look right?
#
# Look at FDK before anything else. An axis that is three columns off doubles every edge. Angles in the other
# sense fit no whole turn of a cone beam, which `ingest` refuses where it searches for the axis. Images whose
# columns are reversed as well give a sharp mirror image: a heart on the wrong side is all that tells it.

# %%
try:
    ingested("refused", clockwise=True)
except ValueError as error:
    print(error)
else:
    raise AssertionError("a wrong sense was taken")

# %%
ingested("off", axis_column=AXIS + 3)
ingested("sense", axis_column=AXIS, clockwise=True)


def reconstructed(name, config):
    options = ["--config", str(shipped_config(f"reconstruct/{config}.yaml"))]
    options += ["--case", str(folder / name), "--out", str(folder / "runs" / name / config)]
    reconstruct(**parse(reconstruct, options).arguments)
    return folder / "runs" / name / config


names = {"right": "right", "off": "the axis 3 columns off", "sense": "angles in the other sense"}
figure, axes = plt.subplots(1, 4, figsize=(14, 3.7))
axes[0].imshow(density[24], cmap="gray", vmin=0, vmax=0.05)
axes[0].set_title("truth")
for panel, (name, title) in zip(axes[1:], names.items(), strict=True):
    values = read_volume(read_runs([reconstructed(name, "fdk")])[0]).values
    panel.imshow(values[values.shape[0] // 2], cmap="gray", vmin=0, vmax=0.05)
    panel.set_title(title)
for panel in axes:
    panel.set_axis_off()

# %% [markdown]
# ## What judges without a truth
#
# The views that were held out. PSNR says how well they are predicted, chi-square whether what is left is noise:
# near 1 it is, and 10 or more says that geometry, beam or detector are not as they were described.

# %%
runs = [reconstructed("right", "fdk"), reconstructed("right", "weighted_tv")]
runs.append(reconstructed("off", "weighted_tv"))
evaluate(runs)
psnr = [json.loads((run / "metrics.json").read_text())["projections"]["psnr"] for run in runs]
assert psnr[1] > psnr[0]
assert psnr[1] > psnr[2] + 3

# %% [markdown]
# ## Poses that were calibrated
#
# A scanner whose views do not lie on a circle comes with the pose of each: as ASTRA's vectors, projection
# matrices, or RTK's XML ([measured scans](../docs/measured_scans.md)). The same scan by its vectors:

# %%
np.savetxt(folder / "scan.geom", astra_vectors(scan))
known = {"geometry": folder / "scan.geom"}
posed = read_case(ingested("posed"))
np.testing.assert_allclose(posed.scan.source_mm, right.scan.source_mm, atol=1e-6)
print(posed.scan)

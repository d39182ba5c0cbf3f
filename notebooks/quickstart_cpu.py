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
# # From a few projections to a volume, on a CPU
#
# A generated chest is scanned with a handful of views and reconstructed by classical solvers and
# by 3D Gaussians. Every step is a function of `diffnr_lightning.workflows`; the command of the
# same name does the same (`diffnr simulate`, `diffnr reconstruct`, ...). Sizes are small here, so
# that the page runs in a minute; `make demo` shows what the methods do at 128 voxels an edge.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from diffnr_lightning.data import ScanRecipe, read_case
from diffnr_lightning.reports import read_runs, read_volume
from diffnr_lightning.workflows import evaluate, reconstruct, simulate
from diffnr_lightning.workflows.command_line.config_files import shipped_config
from diffnr_lightning.workflows.command_line.settings import parse

SIZE = 40  # voxels along each edge
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A scan
#
# The volume is windowed to `[0, 1]`, projected from finer voxels than are reconstructed, and noise
# of a given number of photons is added. The case folder has the format of R2-Gaussian.

# %%
case_folder = simulate("phantom:5", folder / "case", ScanRecipe(size=SIZE, num_views=20))
case = read_case(case_folder)
print(case.scan)

figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
axes[0].imshow(case.volume[SIZE // 2], cmap="gray", vmin=0, vmax=0.8)
axes[0].set_title("the middle slice")
for panel, view in zip(axes[1:], (0, 3, 5), strict=True):
    panel.imshow(case.projections[view], cmap="gray")
    panel.set_title(f"view {view}")
for panel in axes:
    panel.set_axis_off()

# %% [markdown]
# ## Reconstructions
#
# A config file holds what differs from the defaults; options given after it win. `parse` reads
# them as the command line does, `resolved` is the whole outcome, which the run folder keeps as
# `config.yaml`. A finished run is left alone when the cell is run again.

# %%
# Enough for so few voxels.
fewer = ["--method.representation.num_gaussians", "4000", "--method.iterations", "400"]
fewer += ["--method.optimisation.rate_iterations", "400"]
methods = {
    "FDK": ("fdk", []),
    "SIRT": ("sirt", []),
    "ASD-POCS": ("asd_pocs", []),
    "3D Gaussians": ("r2gaussian", fewer),
}
for label, (config, options) in methods.items():
    options = ["--config", str(shipped_config(f"reconstruct/{config}.yaml")), *options]
    options += ["--case", str(case_folder), "--out", str(folder / config), "--name", label]
    reconstruct(**parse(reconstruct, options).arguments)

# %% [markdown]
# ## What came out
#
# Numbers depend on the protocol by many decibels, so that every table names it.

# %%
runs = [folder / config for config, _ in methods.values()]
evaluate(runs)

# %%
figure, axes = plt.subplots(1, len(runs) + 1, figsize=(14, 3.4))
low, high = case.window_hu
truth = case.volume[SIZE // 2] * (high - low) + low
axes[0].imshow(truth, cmap="gray", vmin=-1000, vmax=500)
axes[0].set_title("truth")
for panel, run in zip(axes[1:], read_runs(runs), strict=True):
    panel.imshow(read_volume(run).values[SIZE // 2], cmap="gray", vmin=-1000, vmax=500)
    panel.set_title(run.method)
for panel in axes:
    panel.set_axis_off()

# %%
metrics = json.loads((folder / "sirt" / "metrics.json").read_text())
print(metrics["protocols"]["r2"], f"{metrics['seconds']} s")
assert metrics["protocols"]["r2"]["psnr"] > 20

# %% [markdown]
# Next: `configs/diffnr/align.yaml` over it lets the SliceFixer that comes with the
# package take part; `diffnr report --runs ...` writes a page with all slices.

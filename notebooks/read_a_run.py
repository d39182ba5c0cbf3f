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
# # Reading a run
#
# A run folder holds all that is needed to judge a reconstruction and to make it again. This page
# makes a small one and opens its files with nothing but common libraries.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import SimpleITK
import torch
import yaml

from diffnr_lightning.data import ScanRecipe, read_case
from diffnr_lightning.metrics import PROTOCOLS
from diffnr_lightning.reports import read_run
from diffnr_lightning.workflows import reconstruct, simulate
from diffnr_lightning.workflows.command_line.config_files import shipped_config
from diffnr_lightning.workflows.command_line.settings import parse

folder = Path(tempfile.mkdtemp())
case_folder = simulate(
    "phantom:5", folder / "case", ScanRecipe(size=32, num_views=16, test_views=4)
)
config = ["--config", str(shipped_config("reconstruct/r2gaussian.yaml"))]
smaller = ["--method.representation.num_gaussians", "2000", "--method.iterations", "200"]
smaller += ["--method.optimisation.rate_iterations", "200"]
options = [*config, "--case", str(case_folder), "--out", str(folder / "run"), *smaller]
run = reconstruct(**parse(reconstruct, options).arguments)
for path in sorted(run.iterdir()):
    print(f"{path.name:20s}{path.stat().st_size:>10,} bytes")

# %% [markdown]
# ## How it was made
#
# `config.yaml` is what the config file and the options came to, defaults filled in; given to
# `--config` again it makes the same volume. `environment.json` holds machine and versions.

# %%
made = yaml.safe_load((run / "config.yaml").read_text())
print(yaml.safe_dump(made["method"]["init_args"]["representation"]))
environment = json.loads((run / "environment.json").read_text())
print({key: environment[key] for key in ("python", "cores", "diffnr_lightning")})

# %% [markdown]
# ## What came out
#
# The same volume has another PSNR under each protocol: the papers of this field differ in what they
# clip, normalise and average. `projections` is the error of views that no reconstruction has seen,
# which is all there is where the truth is not known.

# %%
metrics = json.loads((run / "metrics.json").read_text())
assert set(metrics["protocols"]) == set(PROTOCOLS)
for protocol, found in metrics["protocols"].items():
    print(f"{protocol:8s}{found['psnr']:7.2f} dB{found['ssim']:8.3f}")
print("views left out:", {key: round(value, 3) for key, value in metrics["projections"].items()})

# %%
history = read_run(run).history
figure, axes = plt.subplots(1, 2, figsize=(10, 3))
for panel, name in zip(axes, ("loss", "psnr"), strict=True):
    panel.plot(history["iteration"], history[name])
    panel.set_xlabel("iteration")
    panel.set_title(name)

# %% [markdown]
# ## The volume
#
# NIfTI with spacing, in HU where the scanned volume was: any viewer of medical images opens it.
# Here its error against the truth of the case.

# %%
image = SimpleITK.ReadImage(str(run / "volume.nii.gz"))
values = SimpleITK.GetArrayFromImage(image)  # (Z, Y, X) in HU
print("spacing (x, y, z) in mm:", [round(edge, 3) for edge in image.GetSpacing()])
case = read_case(case_folder)
low, high = metrics["window_hu"]
truth = case.volume.numpy() * (high - low) + low
middle = len(values) // 2
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4))
for panel, title, shown in zip(axes, ("truth", "run"), (truth, values), strict=False):
    panel.imshow(shown[middle], cmap="gray", vmin=-1000, vmax=500)
    panel.set_title(title)
axes[2].imshow((values - truth)[middle], cmap="RdBu", vmin=-300, vmax=300)
axes[2].set_title("difference, +-300 HU")
for panel in axes:
    panel.set_axis_off()
error = np.clip(values, low, high) - truth
peak = (truth.max() - truth.min()) ** 2
print(f"PSNR by hand: {10 * np.log10(peak / np.mean(error**2)):.2f} dB")

# %% [markdown]
# ## The state
#
# The checkpoint holds the representation and its optimiser; with the same command an interrupted
# run goes on from it.

# %%
state = torch.load(run / "checkpoint.ckpt", weights_only=True)
for name, tensor in state["state_dict"].items():
    print(f"{name:32s}{tuple(tensor.shape)}")

# %% [markdown]
# Next: `diffnr evaluate --runs ...` makes a table of many runs, `diffnr report --runs ...` a page
# to click through.

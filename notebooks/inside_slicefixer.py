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
# # Inside SliceFixer
#
# What the prior gets, what it makes of it, and what each piece of information is worth. The
# network is the compact SliceFixer that comes with the package; the paper's gets the same except
# for the residual and its noise, and a text besides.

# %%
import matplotlib.pyplot as plt
import torch

from diffnr_lightning.consistency import align
from diffnr_lightning.data import Noise, ScanRecipe, generate, simulate_case
from diffnr_lightning.metrics import r2_protocol
from diffnr_lightning.priors import (
    CrossAttnFusionAdapter,
    Repairer,
    biplanar_conditioning,
    load_default,
    repair_volume,
)
from diffnr_lightning.solvers import backprojected_residual
from diffnr_lightning.workflows import Problem, Solver

SIZE = 64  # voxels along each edge
PLANES = ("axial", "coronal", "sagittal")

# %% [markdown]
# ## A degraded volume
#
# A generated chest that the network has not learned from, scanned with 16 noisy views and
# reconstructed by ASD-POCS. (The network has learned from volumes of 128 voxels an edge, so that
# their size is foreign to it.)

# %%
noise = Noise(mode="tigre", photons=1e4, electronic=10)
recipe = ScanRecipe(size=SIZE, num_views=16, noise=noise)
case = simulate_case(generate("phantom:5", SIZE), recipe, name="chest_5")
problem = Problem(case.projections, case.scan, case.grid, case.seed)
degraded = Solver("asd_pocs").reconstruct(problem)


def scores(volume):
    """PSNR in dB and SSIM under the r2 protocol, as a caption."""
    found = r2_protocol(volume, case.volume)
    return f"{found['psnr']:.2f} dB, {found['ssim']:.3f}"


def show(titles_and_slices, low=0.0, high=0.7, cmap="gray"):
    """Slices (H, W) side by side under their titles."""
    figure, axes = plt.subplots(1, len(titles_and_slices), figsize=(13, 3.4))
    for panel, (title, image) in zip(axes, titles_and_slices.items(), strict=True):
        panel.imshow(image, cmap=cmap, vmin=low, vmax=high)
        panel.set_title(title, fontsize=9)
        panel.set_axis_off()


# %% [markdown]
# ## What it is conditioned on
#
# Of the scan, the two measured projections nearest to perpendicular, and how many views there were.
# Of the volume, the *backprojected residual*: FDK of what the projections say and the volume does
# not. It looks like noise and streaks, and yet it is large where the volume is wrong. Where the noise of the
# rays is known, the network is told how much of it is noise, too; here it is not.

# %%
directions = torch.tensor(case.scan.direction, dtype=torch.float32)
conditioning = biplanar_conditioning(case.projections, directions)
residual = backprojected_residual(degraded.clamp(0, 1), case.projections, case.grid, case.scan)
middle = SIZE // 2
error = case.volume - degraded
show(
    {"first projection": conditioning.biplanar[0, 0], "second": conditioning.biplanar[0, 1]},
    high=1.0,
)
show(
    {"backprojected residual": residual[middle], "error of the volume": error[middle]},
    low=-0.2,
    high=0.2,
    cmap="RdBu",
)
together = torch.stack((residual.flatten(), error.flatten()))
print("correlation of the two:", round(float(torch.corrcoef(together)[0, 1]), 3))

# %% [markdown]
# ## What it makes of it
#
# Slices of three planes are repaired one by one and averaged; the repaired volume is pulled back to
# the measured projections (`align`). A second pass gets the residual that is left.

# %%
prior = load_default()
repaired = repair_volume(prior, degraded, conditioning, planes=PLANES, residual=residual)
aligned = align(repaired, case.projections, case.grid, case.scan, iterations=10)
repairer = Repairer(planes=PLANES, align_iterations=10, passes=2)
twice = repairer.repair(degraded, case.projections, case.grid, case.scan).volume
volumes = {
    "ASD-POCS": degraded,
    "repaired": repaired,
    "and aligned": aligned,
    "in two passes": twice,
    "truth": case.volume,
}
captions = {
    name if name == "truth" else f"{name}: {scores(volume)}": volume[middle]
    for name, volume in volumes.items()
}
show(captions)

# %% [markdown]
# ## What each piece is worth
#
# The same repair, with one thing hidden at a time. During training each was hidden now and then, so
# that the network knows how to do without.

# %%
variants = {
    "everything": (conditioning, residual, PLANES),
    "no residual": (conditioning, None, PLANES),
    "no projections": (
        conditioning._replace(biplanar=torch.zeros_like(conditioning.biplanar)),
        residual,
        PLANES,
    ),
    "number of views unknown": (conditioning._replace(views=torch.zeros(1)), residual, PLANES),
    "axial slices alone": (conditioning, residual, PLANES[:1]),
}
for name, (shown, missing, planes) in variants.items():
    volume = repair_volume(prior, degraded, shown, planes=planes, residual=missing)
    print(f"{name:24s}", scores(volume))

# %% [markdown]
# ## The paper's SliceFixer
#
# It is SD-Turbo with LoRA in U-Net and VAE, conditioned on text and on features of the two projections that
# an adapter of cross-attention joins. The adapter's size can be counted without any weights.

# %%
with torch.device("meta"):
    adapter = CrossAttnFusionAdapter()
for name, child in adapter.named_children():
    print(f"{name:12s}", f"{sum(p.numel() for p in child.parameters()):>9,}")
print("adapter     ", f"{sum(p.numel() for p in adapter.parameters()):>9,}")

# %%
before, after = (r2_protocol(volume, case.volume)["psnr"] for volume in (degraded, twice))
assert after > before, (before, after)

# %% [markdown]
# Next: `diffnr curate` and `diffnr finetune` make a SliceFixer of your own;
# `--method.pseudo_reference.repairer.weights` puts it to use.

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
# # Geometry conventions
#
# Everything in the package lives in one right-handed world: points are `(x, y, z)` in millimetres
# and the scanner turns about the z axis. Two immutable values describe a scan:
#
# - `VolumeGrid`: shape `(Z, Y, X)`, voxel edges `(z, y, x)` and centre `(x, y, z)` of the volume;
# - `ScanGeometry`: for every view the source, the centre of the detector and two steps on it, `u`
#   from one column to the next and `v` from one row to the next.
#
# Arrays follow: volumes are `(Z, Y, X)`, projections `(V, H, W)`, with H along the rotation axis.
# This page draws what these words mean, and checks each of them.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

grid = VolumeGrid(shape=(40, 48, 56), voxel_mm=2.0)
scan = ScanGeometry.cone(
    angles_rad=uniform_angles(24),
    source_to_axis_mm=300.0,
    source_to_detector_mm=450.0,
    detector_shape=(48, 72),
    pixel_mm=2.5,
)
print(scan)
print(grid)

# %% [markdown]
# ## The scanner seen from above
#
# At angle *a* the source stands at `(DSO cos a, DSO sin a, 0)`: view 0 on the +x axis, then
# counter-clockwise. The detector stands opposite, at distance DSD from the source. Columns run
# along `u = (-sin a, cos a, 0)`.

# %%
half_width = scan.detector_shape[1] / 2
low, high = grid.corners_mm
figure, axes = plt.subplots(figsize=(7, 7))
for view, colour in ((0, "C0"), (3, "C1")):
    source, centre, u = scan.source_mm[view], scan.detector_mm[view], scan.u_mm[view]
    ends = np.stack([centre - half_width * u, centre + half_width * u])
    axes.plot(*source[:2], "o", color=colour)
    axes.annotate(f"source of view {view}", source[:2], xytext=(6, 6), textcoords="offset points")
    axes.plot(ends[:, 0], ends[:, 1], color=colour, linewidth=3, label=f"detector of view {view}")
    for end in ends:
        axes.plot(*np.stack([source, end])[:, :2].T, color=colour, linewidth=0.7)
    axes.annotate(
        "",
        centre[:2] + 25 * u[:2],
        centre[:2],
        arrowprops={"arrowstyle": "->", "color": "black", "linewidth": 1.5},
    )
    axes.annotate("u", centre[:2] + 28 * u[:2])
axes.add_patch(
    plt.Rectangle(low[:2], high[0] - low[0], high[1] - low[1], alpha=0.3, label="volume")
)
axes.set(xlabel="x in mm", ylabel="y in mm", aspect="equal", xlim=(-220, 420), ylim=(-220, 260))
axes.set_title("from above (+z towards you)")
axes.legend(loc="lower right")

# %%
np.testing.assert_allclose(scan.source_mm[0], [300, 0, 0])
np.testing.assert_allclose(scan.detector_mm[0], [-150, 0, 0])
np.testing.assert_allclose(scan.u_mm[0], [0, 2.5, 0], atol=1e-12)

# %% [markdown]
# ## Row 0 is the top
#
# `v`, the step from one row to the next, is `(0, 0, -pitch)`: row 0 of a projection looks at the
# highest z, so that a projection shown with `imshow` stands upright. Volume index z grows with +z,
# so that the slice `volume[0]` is the *lowest*.

# %%
np.testing.assert_allclose(scan.v_mm[0], [0, 0, -2.5])
volume = torch.zeros(grid.shape)
volume[10:30, 16:32, 20:36] = 0.3  # a box in the middle
volume[32:36, 22:26, 26:30] = 3.0  # a small one above it (+z)
volume[18:22, 40:44, 26:30] = 3.0  # and one behind it (+y)
projections = project(volume, grid, scan)  # (V, H, W), lengths in mm times density
print(tuple(projections.shape))

figure, axes = plt.subplots(1, 3, figsize=(12, 3.2))
axes[0].imshow(volume[:, :, 28], origin="lower", cmap="gray")
axes[0].set(title="volume[:, :, 28]", xlabel="y index", ylabel="z index (shown upwards)")
for panel, view in zip(axes[1:], (0, 6), strict=True):
    panel.imshow(projections[view], cmap="gray")
    angle = 360 * view // len(scan)
    panel.set(title=f"view {view} ({angle} degrees)", xlabel="column (u)", ylabel="row (v)")
figure.tight_layout()

# %% [markdown]
# In view 0 the source stands on +x and u points to +y: the box at +y appears on the right, the one
# at +z on top. Values are line integrals in mm: a voxel of density 1 that a ray crosses straight
# adds its edge.

# %%
view = projections[0]
rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(72.0), indexing="ij")
bright = view > 12  # the two small boxes
upper, right = bright & (rows < 20), bright & (columns > 44)
assert upper.any()
assert right.any()
assert not (bright & (rows > 30)).any()
assert not (bright & (columns < 26)).any()
# The middle box: 16 voxels of 2 mm and density 0.3 along x.
np.testing.assert_allclose(view[24, 36], 16 * 2.0 * 0.3, rtol=0.02)

# %% [markdown]
# ## Where a voxel is
#
# `grid.origin_mm` is the centre of voxel `[0, 0, 0]`; faces lie half a voxel further out.

# %%
points = grid.points()  # (Z, Y, X, 3)
np.testing.assert_allclose(points[0, 0, 0], grid.origin_mm)
np.testing.assert_allclose(points[1, 0, 0] - points[0, 0, 0], [0, 0, 2])
np.testing.assert_allclose(points[0, 1, 0] - points[0, 0, 0], [0, 2, 0])
np.testing.assert_allclose(points[0, 0, 1] - points[0, 0, 0], [2, 0, 0])
np.testing.assert_allclose(np.array(grid.origin_mm) - grid.corners_mm[0], 1.0)

# %% [markdown]
# ## Parallel beam, offsets, arbitrary poses
#
# `ScanGeometry.parallel` takes the same angles; rays run along `(-cos a, -sin a, 0)`. A detector
# offset `(v, u)` shifts the detector along its own directions, so that a positive v shift moves it
# down. The vectors of any other scanner go straight into the constructor. A scan prints as the
# expression that rebuilds it, is compared with `==`, and is indexed by view.

# %%
parallel = ScanGeometry.parallel(
    angles_rad=uniform_angles(18, 180), detector_shape=(48, 72), pixel_mm=2.0
)
np.testing.assert_allclose(parallel.direction[0], [-1, 0, 0], atol=1e-12)
shifted = ScanGeometry.cone(
    angles_rad=[0.0],
    source_to_axis_mm=300.0,
    source_to_detector_mm=450.0,
    detector_shape=(48, 72),
    pixel_mm=2.5,
    detector_offset_mm=(10.0, 20.0),
)
np.testing.assert_allclose(shifted.detector_mm[0], [-150, 20, -10])
assert scan[::4][1] == scan[4]
assert len(scan[[0, 5, 7]]) == 3
print(scan[::6])

import json

import numpy as np
import pytest
import SimpleITK

from diffnr_lightning.metrics import evaluate_volume

SHAPE = (12, 14, 16)
VOXEL_MM = (2.0, 1.5, 1.0)
WINDOW_HU = (-1000.0, 2000.0)


def ball():
    z, y, x = (np.linspace(-1, 1, n) for n in SHAPE)
    radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    truth = np.clip(1.2 - radius, 0, 1).astype(np.float32)
    # An off-centre marker: no flip or exchange of axes leaves it in place.
    truth[9, 3, 2] = 1
    return truth


def write_run(folder, case, method, volume, truth=None, window_hu=WINDOW_HU, **numbers):
    """Write a finished run as `diffnr reconstruct` leaves it, with its case if there is a truth."""
    folder.mkdir(parents=True)
    low, high = window_hu or (0.0, 1.0)
    image = SimpleITK.GetImageFromArray((low + volume * (high - low)).astype(np.float32))
    image.SetSpacing(VOXEL_MM[::-1])
    SimpleITK.WriteImage(image, str(folder / "volume.nii.gz"))
    metrics = {"case": case, "method": method, "seconds": 2.5, "window_hu": window_hu, **numbers}
    if truth is not None:
        case_folder = folder.parent / f"case_{case}"
        case_folder.mkdir(exist_ok=True)
        np.save(case_folder / "vol_gt.npy", truth.transpose(2, 1, 0))
        meta = {"vol": "vol_gt.npy", "window_hu": window_hu}
        (case_folder / "meta_data.json").write_text(json.dumps(meta))
        metrics["case_folder"] = str(case_folder)
        metrics.setdefault("protocols", evaluate_volume(volume, truth))
    (folder / "config.yaml").write_text("method: {}\n")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def truth():
    return ball()


@pytest.fixture
def run_folders(tmp_path, truth):
    """Two methods on two cases: FDK is off by 0.1 (20 dB) and 0.05 (26.02 dB), DiffNR by 0.01."""
    folders = []
    for case, offset in (("chest", 0.1), ("<head>", 0.05)):
        name = case.strip("<>")
        folders.append(write_run(tmp_path / f"{name}_fdk", case, "FDK", truth + offset, truth))
        folders.append(
            write_run(
                tmp_path / f"{name}_diffnr",
                case,
                "DiffNR",
                truth + 0.01,
                truth,
                projections={"psnr": 41.0, "ssim": 0.98, "relative_l2": 0.01},
                history={"iteration": [1, 50, 100], "loss": [1.0, 0.2, float("nan")]},
            )
        )
    return folders

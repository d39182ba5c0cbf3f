import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffnr_lightning.metrics import PROTOCOLS, evaluate_volume, field_of_view
from diffnr_lightning.protocol_metrics import ScoreMean, VolumeProtocol, every_protocol
from tests.metrics_on_two_processes import scored, volumes


def test_metrics_are_the_means_of_the_protocols():
    pairs = volumes(3)
    metric = every_protocol()
    for prediction, truth in pairs:
        metric.update(prediction, truth)
    found = metric.compute()
    singles = [evaluate_volume(prediction, truth) for prediction, truth in pairs]
    assert len(found) == 2 * len(PROTOCOLS)
    for name in PROTOCOLS:
        for key in ("psnr", "ssim"):
            mean = math.fsum(single[name][key] for single in singles) / 3
            assert found[f"{name}_{key}"].item() == pytest.approx(mean, rel=1e-14)


def test_a_volume_counts_where_its_truth_can_be_scored():
    (prediction, truth), *others = volumes(3)
    flat = torch.full_like(truth, 0.5)
    pairs = [*others, (prediction[:5], truth[:5]), (flat + 0.1, flat)]
    metric = every_protocol()
    metric.update(*pairs[2])
    assert metric.compute()["naf_psnr"].isnan()
    for pair in (*pairs[:2], pairs[3]):
        metric.update(*pair)
    found = metric.compute()
    singles = [evaluate_volume(*pair) for pair in pairs]
    assert [*singles[2], *singles[3]] == ["r2", "strict", "r2", "naf"]
    for name in PROTOCOLS:
        scores = [single[name]["ssim"] for single in singles if name in single]
        assert found[f"{name}_ssim"].item() == pytest.approx(sum(scores) / len(scores), rel=1e-14)
    with pytest.raises(ValueError, match="'naf' needs 7 voxels or more along every axis"):
        VolumeProtocol("naf").update(*pairs[2])


def test_one_volume_scores_as_it_does_without_torchmetrics():
    (prediction, truth), *_ = volumes(1)
    mask = torch.from_numpy(field_of_view(truth.shape))
    metric = VolumeProtocol("strict")
    metric.update(prediction, truth, mask)
    expected = PROTOCOLS["strict"](prediction, truth, mask)
    assert {name: value.item() for name, value in metric.compute().items()} == expected
    metric.reset()
    assert metric.compute()["psnr"].isnan()


def test_two_processes_score_as_one(tmp_path):
    """Also where one has seen more volumes than the other."""
    script = Path(__file__).parent / "metrics_on_two_processes.py"
    subprocess.run([sys.executable, script, str(tmp_path)], check=True, timeout=300)
    alone = scored(volumes())
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        assert found == pytest.approx(alone, rel=1e-14)


def test_sums_move_to_devices_without_float64():
    def moved(tensor):
        """Stands in for a move to Apple's MPS."""
        if tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return tensor

    metric = ScoreMean(("gain",), least=("gain",))
    metric._apply(moved)
    for _ in range(2):
        metric.update({"gain": 1.0})
        metric.update({"gain": torch.tensor(2.0, dtype=torch.float64)})
        found = metric.compute()
        assert {name: (v.dtype, v.item()) for name, v in found.items()} == {
            "gain": (torch.float32, 1.5),
            "gain_least": (torch.float32, 1.0),
        }
        metric.reset()
    assert ScoreMean(("gain",)).to("cpu").count.dtype == torch.float64
    assert ScoreMean(("gain",)).float().count.dtype == torch.float64


def test_unknown_protocols_and_missing_scores_are_refused():
    with pytest.raises(ValueError, match="protocol is 'r3'; one of r2, naf, strict"):
        VolumeProtocol("r3")
    with pytest.raises(KeyError):
        ScoreMean(("psnr",)).update({"ssim": 1.0})

"""A frozen backbone that is split over two processes trains as a whole one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import write_tiny_rad_dino, write_tiny_sd_turbo

from diffnr_lightning.data.slice_pairs import write_pairs
from diffnr_lightning.priors import CompactSliceFixer, load_prior, split_frozen

SCRIPT = Path(__file__).with_name("finetuning_with_split_weights.py")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Folder with tiny models and pairs of two cases; the second is held out, with few slices."""
    folder = tmp_path_factory.mktemp("split")
    write_tiny_sd_turbo(folder / "sd-turbo")
    write_tiny_rad_dino(folder / "rad-dino")
    generator = torch.Generator().manual_seed(0)
    for case in ("one", "two"):
        clean = torch.rand(4, 32, 32, generator=generator)
        write_pairs(
            folder / "pairs",
            case,
            degraded=(clean + 0.1)[None],
            clean=clean,
            biplanar=torch.rand(2, 28, 28, generator=generator),
            info={"case": case, "views": 24},
        )
    return folder


@pytest.fixture(scope="module")
def run(work):
    def finetune(strategy, name, precision="32-true", resume_from=""):
        subprocess.run(
            [sys.executable, SCRIPT, work, strategy, precision, name, resume_from],
            check=True,
            timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return [torch.load(work / f"{name}_{rank}.pt") for rank in (0, 1)]

    return finetune


@pytest.fixture(scope="module")
def split(run):
    return run("fsdp", "split")


def assert_equal_states(first, second, **tolerance):
    for part in ("trained", "average", "discriminator"):
        for name, tensor in first[part].items():
            torch.testing.assert_close(tensor, second[part][name], **tolerance)


def test_two_processes_hold_equal_weights_and_half_of_the_frozen_ones(split, work):
    first, second = split
    assert_equal_states(first, second, rtol=0, atol=0)
    assert first["scores"] == second["scores"]
    whole = load_prior(work / "split_0.safetensors")
    frozen = sum(p.numel() for n, p in whole.backbone.named_parameters())
    frozen -= sum(p.numel() for p in whole.backbone.trained().values())
    # Tensors of odd length are filled up.
    assert 0.5 * frozen <= first["frozen_here"] < 0.6 * frozen
    average = {name.replace("/", "."): t for name, t in first["average"].items()}
    for name, tensor in whole.backbone.trained().items():
        torch.testing.assert_close(tensor.data, average[f"backbone.{name}"], rtol=0, atol=0)


@pytest.mark.slow
def test_they_are_those_of_whole_weights_on_two_processes(split, run):
    whole, _ = run("ddp_find_unused_parameters_true", "whole")
    assert whole["frozen_here"] > 1.6 * split[0]["frozen_here"]
    # The sums of gradients over processes are rounded differently, which Adam's first steps enlarge.
    assert_equal_states(whole, split[0], rtol=1e-3, atol=1e-4)
    assert split[0]["scores"] == pytest.approx(whole["scores"], rel=1e-3)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(split, run):
    resumed, _ = run("fsdp", "resumed", resume_from="split.ckpt")
    assert_equal_states(resumed, split[0], rtol=1e-3, atol=1e-5)


def test_the_checkpoint_is_one_file_without_frozen_weights(split, work):
    kept = torch.load(work / "split.ckpt", weights_only=True)["state_dict"]
    trained = {f"prior.backbone.{name}" for name in split[0]["trained"] if "adapter." not in name}
    backbone = {name for name in kept if name.startswith("prior.backbone.")}
    assert backbone == trained


def test_a_network_without_frozen_weights_is_refused():
    with pytest.raises(ValueError, match="CompactSliceFixer has none: use ddp"):
        split_frozen(CompactSliceFixer(channels=(8, 16), embedding=16), mesh=None)

from pathlib import Path

import lightning
import pytest
import torch
from blob_scan import GRID, PROJECTIONS, SCAN, TRUTH, Halving

from diffnr_lightning.callbacks import RepairedProjections
from diffnr_lightning.data import ScanData
from diffnr_lightning.geometry import views_between
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.priors import CompactSliceFixer, ProjectionRepairer, save_prior
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import VoxelGrid
from diffnr_lightning.workflows import Scene

pytestmark = pytest.mark.filterwarnings("ignore")


def callback(**options):
    repairer = ProjectionRepairer()
    repairer.prior = Halving()
    return RepairedProjections(repairer, **options)


def run(made, steps=9, checkpoint=None, stop=None, views=8, **options):
    representation = VoxelGrid(GRID)
    representation.initialise(TRUTH, PROJECTIONS, SCAN, seed=0)
    settings = {"rate_scale": 0.0, "lambda_tv": 0.0, **options}
    module = SceneOptimization(representation, SCAN[:views], GRID, **settings)
    trainer = lightning.Trainer(
        max_steps=stop or steps,
        accelerator="cpu",
        logger=False,
        callbacks=[made],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = ScanData(PROJECTIONS[:views], seed=0, iterations=steps)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module, trainer


def test_views_grow_in_number_towards_the_middles():
    made = callback(at=[3, 6, 9])
    module, _ = run(made)
    # The last batch has no use for more.
    assert made.made == 2
    for number, share in enumerate((0.25, 0.375)):
        part = slice(8 * number, 8 * number + 8)
        expected = views_between(SCAN, share)
        assert module.novel.scan[part] == expected
        shown = project(TRUTH, GRID, expected)
        torch.testing.assert_close(
            module.novel.projections[part],
            0.5 * shown.clamp(max=PROJECTIONS.max()),
            rtol=1e-3,
            atol=1e-3,
        )
    # A callback that serves another scan begins anew.
    assert len(run(made)[0].novel.scan) == 16 and made.made == 2


def test_they_are_fitted_now_and_then_with_their_weight():
    """What the prior halved draws the volume down, the more the more often and the heavier it is drawn."""
    options = {"rate_scale": 1.0, "lambda_ssim": 0.0}

    def mass(**given):
        module, _ = run(callback(at=[1]), 30, **options, **given)
        return float(module.query_volume().detach().mean() / TRUTH.mean())

    never, seldom, always = (mass(novel_share=share) for share in (0.0, 0.3, 1.0))
    assert always < seldom < never
    assert mass(novel_share=0.3, lambda_novel=0.0) == pytest.approx(never, rel=0.02)


def test_a_resumed_run_equals_a_whole_one(tmp_path):
    options = {"rate_scale": 1.0}
    whole, _ = run(callback(at=[2, 5]), 8, **options)
    _, trainer = run(callback(at=[2, 5]), 8, stop=4, **options)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = callback(at=[2, 5])
    resumed, _ = run(again, 8, checkpoint=tmp_path / "last.ckpt", **options)
    assert again.made == 2
    assert resumed.novel.scan == whole.novel.scan
    assert torch.equal(resumed.novel.projections, whole.novel.projections)
    assert torch.equal(resumed.query_volume(), whole.query_volume())


def test_what_cannot_be():
    for at in ([], [0, 3], [3, 3]):
        with pytest.raises(ValueError, match="batches that rise from 1"):
            callback(at=at)
    with pytest.raises(ValueError, match="approach is 0"):
        callback(approach=0)
    with pytest.raises(ValueError, match="overrides are"):
        ProjectionRepairer(overrides={"base": "x"})
    with pytest.raises(ValueError, match="batch_size is 0"):
        ProjectionRepairer(batch_size=0)
    module, _ = run(callback(at=[2]), 3)
    with pytest.raises(ValueError, match="one for each is expected"):
        module.add_novel_views(SCAN, PROJECTIONS[1:])
    # At once, not in the batch after which views would be added.
    with pytest.raises(ValueError, match="the scan has 1 view.*leave repaired_projections out"):
        run(callback(at=[8]), steps=2, views=1)
    with pytest.raises(ValueError, match="novel_share is 2"):
        run(callback(), 3, novel_share=2)


def test_the_weights_of_its_network_are_among_those_of_a_scene(caplog):
    made = RepairedProjections(ProjectionRepairer())
    assert "has seen slices alone" in caplog.text
    scene = Scene(repaired_projections=made)
    assert [path.name for path in scene.learned] == ["compact_slicefixer.safetensors"]
    assert scene.learned[0].is_file()


def test_views_that_would_come_after_the_last_batch_are_refused():
    with pytest.raises(ValueError, match="first after 30 batches, but there are 30 in all"):
        Scene(iterations=20, extension=0.5, repaired_projections=callback(at=[30]))
    Scene(iterations=20, extension=0.5, repaired_projections=callback(at=[29, 40]))


def test_weights_that_have_seen_slices_are_not_taken_for_those_of_projections(tmp_path, caplog):
    def repairer(kinds, methods):
        said = {"learned_kinds": kinds} if kinds else {}
        path = tmp_path / "weights.safetensors"
        save_prior(path, CompactSliceFixer(channels=[8]), {"learned_from": methods, **said})
        caplog.clear()
        return ProjectionRepairer(path)

    with pytest.raises(ValueError, match="FBP-UNet.*analytic.*curate --kind projections") as error:
        ProjectionRepairer(Path("fbp_unet"))
    assert "fbp_unet.safetensors" in str(error.value)
    with pytest.raises(ValueError, match="FBP-UNet"):
        repairer(["slices"], ["analytic"])
    repairer(["slices"], ["GaussianCloud"])
    assert "has seen slices alone" in caplog.text
    for kinds in (["projections"], ["projections", "slices"], None):
        repairer(kinds, ["analytic"])
        assert not caplog.text

import lightning
import pytest
import torch
from blob_scan import GRID, PROJECTIONS, SCAN, TRUTH, Halving

from diffnr_lightning.callbacks import PseudoReference
from diffnr_lightning.data import ScanData
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.priors import Repairer
from diffnr_lightning.representations import VoxelGrid
from diffnr_lightning.workflows import Scene

pytestmark = pytest.mark.filterwarnings("ignore")


class Watch(lightning.Callback):
    """Note whenever there is a new reference."""

    def __init__(self):
        self.references = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        kept = list(self.references.values())
        if pl_module.reference is not None and not (kept and kept[-1] is pl_module.reference):
            self.references[pl_module.iteration] = pl_module.reference


def callback(**options):
    repairer = Repairer()
    repairer.prior = Halving()
    return PseudoReference(repairer, **options)


def run(made, steps=9, start=None, own=TRUTH, **noise):
    representation = VoxelGrid(GRID)
    representation.initialise(own, PROJECTIONS, SCAN, seed=0)
    module = SceneOptimization(representation, SCAN, GRID, rate_scale=0.0, lambda_tv=0.0)
    module.start = start
    watch = Watch()
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        callbacks=[made, watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=ScanData(PROJECTIONS, seed=0, iterations=steps, **noise))
    return watch.references


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({"every": 4}, [4, 8]),
        # The last batch has no use for a new reference.
        ({"every": 3}, [3, 6]),
        ({"every": 2, "repairs": 3}, [2, 4, 6]),
        ({"every": 9}, []),
    ],
)
def test_references_are_made_when_they_are_due(options, batches):
    made = callback(**options)
    references = run(made)
    assert list(references) == batches
    assert made.made == len(batches)
    for reference in references.values():
        torch.testing.assert_close(reference, 0.5 * TRUTH)
        assert not reference.requires_grad
    # The next scan is served from the beginning.
    assert list(run(made)) == batches


def test_the_volume_before_the_first_repair_is_kept_until_the_next_scan():
    made = callback(every=4)
    run(made)
    torch.testing.assert_close(made.first, TRUTH)
    made.start_alone = True
    made.setup(None, None, "fit")
    assert made.first is None and not made.start_alone


def test_the_start_has_its_share_in_what_is_repaired():
    made = callback(every=4, start_share=0.25)
    (reference, *_) = run(made, steps=6, start=torch.zeros_like(TRUTH)).values()
    torch.testing.assert_close(made.first, 0.75 * TRUTH)
    torch.testing.assert_close(reference, 0.375 * TRUTH)


def test_the_start_alone_is_repaired_where_the_representation_cannot_show_the_object():
    weights = torch.full_like(PROJECTIONS, 100.0)
    # Eleven times as much is left as by the start; a million times; ten thousand times, but one per cent in all.
    for own, start, blend in ((0.9, 0.97, 0.9175), (0.9, 0.9999, 0.9999), (0.99, 0.9999, 0.992475)):
        made = callback(every=4, start_share=0.25)
        run(made, steps=6, start=start * TRUTH, own=own * TRUTH, weights=weights)
        torch.testing.assert_close(made.first, blend * TRUTH)
        assert made.start_alone == (blend == start)


def test_the_noise_of_the_scan_goes_to_the_repairer():
    made = callback(every=4)
    made.repairer.consistency = "agreement"
    (reference, *_) = run(made, steps=6, weights=torch.full_like(PROJECTIONS, 100.0)).values()
    assert (reference - TRUTH).norm() < 0.5 * (0.5 * TRUTH).norm()


def test_the_start_has_its_share_in_what_the_projections_contradict():
    made = callback(every=4, start_share=0.25)
    made.repairer.consistency = "agreement"
    weights = torch.full_like(PROJECTIONS, 100.0)
    (reference, *_) = run(made, steps=6, start=TRUTH, weights=weights).values()
    repaired = made.repairer.repair(made.first, PROJECTIONS, GRID, SCAN, weights=weights)
    assert repaired.contradicted
    torch.testing.assert_close(reference, torch.lerp(repaired.volume, TRUTH, 0.25))


def test_what_is_known_of_the_repairs_survives_a_checkpoint():
    made, resumed = callback(repairs=2), callback(repairs=2)
    made.made, made.first, made.start_alone = 2, TRUTH, True
    resumed.load_state_dict(made.state_dict())
    assert resumed.made == 2 and torch.equal(resumed.first, TRUTH) and resumed.start_alone


def test_a_start_that_is_not_known_has_no_share():
    with pytest.raises(ValueError, match="start of the module is None; give it the volume"):
        run(callback(every=4, start_share=0.25), steps=2)


def test_a_period_that_makes_no_sense():
    with pytest.raises(ValueError, match="every is 0"):
        callback(every=0)
    with pytest.raises(ValueError, match="start_share is 1.5"):
        callback(start_share=1.5)
    with pytest.raises(ValueError, match="repairs is -1"):
        callback(repairs=-1)


def test_a_reference_that_would_come_after_the_last_batch_is_refused():
    made = callback(every=30)
    with pytest.raises(ValueError, match="every 30 batches, but there are 30 in all"):
        Scene(iterations=20, extension=0.5, pseudo_reference=made)
    Scene(iterations=20, extension=0.6, pseudo_reference=made)
    Scene(iterations=20, pseudo_reference=made, finish="repair")
    Scene(iterations=20, pseudo_reference=callback(every_share=0.9))


def test_a_prior_that_never_repairs_is_refused_where_it_does_not_at_the_end():
    with pytest.raises(ValueError, match="repairs is 0 and finish is 'query'"):
        Scene(iterations=60, pseudo_reference=callback(every=30, repairs=0))
    Scene(iterations=60, pseudo_reference=callback(every=30, repairs=0), finish="repair")

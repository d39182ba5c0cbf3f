from __future__ import annotations

import warnings

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from diffnr_lightning.data import IterationSampler, RaySampling, ScanData
from diffnr_lightning.data.datamodules import ViewDraws, evenly_shared

PROJECTIONS = torch.arange(7.0)[:, None, None] * torch.ones(7, 2, 3)


class Recorder(lightning.LightningModule):
    """Learn one number from the views, in whatever order they come."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch, batch_idx):
        assert torch.equal(batch.projection, PROJECTIONS[batch.view])
        self.seen.append(batch.view.tolist())
        return ((self.value - batch.projection) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.Adam([self.value], lr=0.1)


class Indexing(TorchDispatchMode):
    """Refuse to take parts of a tensor that another tensor names: a GPU is waited for where that is on the host."""

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        assert operator is not torch.ops.aten.index.Tensor
        return operator(*arguments, **(options or {}))


class SaveAt(Callback):
    def __init__(self, batch: int, path, stop: bool) -> None:
        self.batch, self.path, self.stop = batch, path, stop

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx + 1 == self.batch:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = self.stop


def _run(data: ScanData, callback: Callback | None = None, checkpoint=None) -> Recorder:
    module = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[callback] if callback else [],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return module


@pytest.mark.parametrize("batch_size", [1, 3])
def test_resumed_run_sees_the_views_of_an_uninterrupted_one(tmp_path, batch_size):
    def data():
        return ScanData(PROJECTIONS, seed=5, iterations=20, batch_size=batch_size)

    whole = _run(data())
    assert len(whole.seen) == 20
    interrupted = _run(data(), SaveAt(8, tmp_path / "c.ckpt", stop=True))
    assert interrupted.seen == whole.seen[:8]
    resumed = _run(data(), checkpoint=tmp_path / "c.ckpt")
    assert resumed.seen == whole.seen[8:]
    assert torch.equal(resumed.value, whole.value)


def test_data_that_have_served_serve_another_fit_from_the_beginning():
    data = ScanData(PROJECTIONS, seed=5, iterations=6)
    first = _run(data)
    assert _run(data).seen == first.seen and len(first.seen) == 6


def test_each_pass_shows_every_view_once_in_another_order():
    draws = ViewDraws(PROJECTIONS, seed=1)
    seen = [int(draws[i].view) for i in range(35)]
    passes = [tuple(seen[k : k + 7]) for k in range(0, 35, 7)]
    assert all(sorted(p) == list(range(7)) for p in passes)
    assert len(set(passes)) == 5


def test_iteration_is_a_function_of_seed_and_number():
    draws = ViewDraws(PROJECTIONS, seed=1, batch_size=2)
    forwards = [draws[i].view.tolist() for i in range(20)]
    backwards = [ViewDraws(PROJECTIONS, 1, 2)[i].view.tolist() for i in reversed(range(20))]
    assert forwards == backwards[::-1]
    other = ViewDraws(PROJECTIONS, seed=2, batch_size=2)
    assert forwards != [other[i].view.tolist() for i in range(20)]


def test_processes_share_one_sequence():
    alone = ViewDraws(PROJECTIONS, seed=1)
    ranks = [ViewDraws(PROJECTIONS, 1, rank=r, world_size=2) for r in range(2)]
    shared = [int(ranks[r][i].view) for i in range(10) for r in range(2)]
    assert shared == [int(alone[i].view) for i in range(20)]


IMAGES = torch.arange(4 * 23 * 30.0).view(4, 23, 30)


@pytest.mark.parametrize("patches", [0.0, 0.4, 1.0])
def test_windows_are_patches_or_thinned_views(patches):
    draws = ViewDraws(IMAGES, seed=3, batch_size=2, rays=RaySampling(8, 10, patches))
    dense = []
    for i in range(60):
        batch = draws[i]
        whole = IMAGES[batch.view]
        assert torch.equal(batch.projection, whole[:, batch.rows, batch.columns])
        _, height, width = batch.projection.shape
        dense.append(batch.rows.step == 1)
        if dense[-1]:
            assert (height, width, batch.columns.step) == (8, 10, 1)
        else:
            assert (batch.rows.step, batch.columns.step) == (3, 3)
            assert height in (7, 8)
            assert width == 10
    assert sum(dense) / 60 == pytest.approx(patches, abs=0.15)


def test_spread_windows_show_every_pixel_equally_often():
    draws = ViewDraws(torch.zeros(1, 7, 9), seed=0, rays=RaySampling(3, 5, patches=0))
    seen = torch.zeros(7, 9)
    for i in range(600):
        batch = draws[i]
        seen[batch.rows, batch.columns] += 1
    torch.testing.assert_close(seen / 600, torch.full((7, 9), 1 / 6), atol=0.06, rtol=0)


def test_a_window_larger_than_the_detector_is_the_detector():
    batch = ViewDraws(IMAGES, seed=0, rays=RaySampling(64, 64))[5]
    assert torch.equal(batch.projection, IMAGES[batch.view])


def test_windows_are_functions_of_seed_number_and_process():
    def windows(seed, rank):
        draws = ViewDraws(IMAGES, seed, rank=rank, world_size=2, rays=RaySampling(8, 8))
        return [str(draws[i][2:]) for i in range(12)]

    assert windows(1, 0) == windows(1, 0)
    assert windows(1, 0) != windows(1, 1)
    assert windows(1, 0) != windows(2, 0)


@pytest.mark.parametrize("rays", [None, RaySampling(4, 3)])
def test_a_batch_brings_the_weights_of_its_rays(rays):
    weights = torch.rand(IMAGES.shape, generator=torch.Generator().manual_seed(1))
    batch = ViewDraws(IMAGES, seed=0, batch_size=2, rays=rays, weights=weights)[7]
    assert batch.weights.shape == batch.projection.shape
    assert torch.equal(batch.weights, weights[batch.view][:, batch.rows, batch.columns])
    assert ViewDraws(IMAGES, seed=0, rays=rays)[7].weights is None


def test_sampler_keeps_the_length_of_the_whole_run():
    sampler = IterationSampler(10, start=7)
    assert list(sampler) == [7, 8, 9]
    assert len(sampler) == 10


def test_senseless_runs_are_refused(one_sentence):
    for build in (
        lambda: IterationSampler(0),
        lambda: IterationSampler(5, 6),
        lambda: ScanData(PROJECTIONS, seed=0, iterations=0),
        lambda: ScanData(PROJECTIONS, seed=0, iterations=1, batch_size=0),
        lambda: ScanData(PROJECTIONS[0], seed=0, iterations=1),
        lambda: ScanData(PROJECTIONS, seed=0, iterations=1, weights=PROJECTIONS[:1]),
        lambda: RaySampling(0, 3),
        lambda: RaySampling(patches=1.5),
        lambda: ScanData(PROJECTIONS, seed=0, iterations=1).load_state_dict(
            {"iteration": 1, "seed": 9}
        ),
    ):
        with pytest.raises(ValueError) as error:
            build()
        one_sentence(error)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_what_is_held_out_is_seen_equally_often_and_by_each_process(count, processes):
    shares = [list(evenly_shared(count, rank, processes)) for rank in range(processes)]
    assert all(shares)
    seen = [sum(share.count(batch) for share in shares) for batch in range(count)]
    assert min(seen) == max(seen) > 0


def test_views_are_taken_without_waiting_for_a_gpu():
    projections = torch.rand(5, 9, 8)
    draws = ViewDraws(
        projections, 0, batch_size=3, rays=RaySampling(4, 4), weights=projections.square()
    )
    with Indexing():
        batch = draws[7]
    window = projections[:, batch.rows, batch.columns][batch.view]
    assert torch.equal(batch.projection, window)
    assert torch.equal(batch.weights, window.square())

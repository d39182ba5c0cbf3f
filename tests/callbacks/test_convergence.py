import lightning
import pytest
import torch
from toy_run import Toy

from diffnr_lightning.callbacks import Convergence

pytestmark = pytest.mark.filterwarnings("ignore")


class Approaching(Toy):
    """Its volume comes nearer to zeros with every batch; the loss is the number of the batch."""

    def training_step(self, batch, batch_idx):
        self.iteration += 1
        return 0 * self.weight + self.iteration

    def query_volume(self):
        return torch.full((2, 2, 2), 0.1**self.iteration)


def run(callback, steps, module=None, *others, **length):
    module = module or Approaching()
    trainer = lightning.Trainer(
        max_steps=steps,
        **length,
        accelerator="cpu",
        logger=False,
        callbacks=[callback, *others],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(range(100)))
    return callback.history


def test_loss_is_averaged_and_psnr_is_of_the_moment():
    history = run(Convergence(torch.zeros(2, 2, 2), points=3), 6)
    assert history["iteration"] == [2, 4, 6]
    assert history["loss"] == pytest.approx([1.5, 3.5, 5.5])
    assert history["psnr"] == pytest.approx([40, 80, 120], abs=1e-3)


def test_the_last_batch_is_a_point_and_truth_is_not_needed():
    history = run(Convergence(points=3), 7)
    assert history["iteration"] == [2, 4, 6, 7]
    assert "psnr" not in history
    assert run(Convergence(points=10), 2)["iteration"] == [1, 2]


class Stop(lightning.Callback):
    """Ends the run after some batches, which nobody could know before."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        trainer.should_stop = pl_module.iteration == 5


def test_a_run_of_unknown_length_has_no_point_at_every_batch():
    assert run(Convergence(points=3), -1, None, Stop(), max_epochs=-1) == {}


class Diverging(Approaching):
    """Its loss, or its volume alone, is no number any more after four batches."""

    def __init__(self, loss):
        super().__init__()
        self.no_number = torch.nan if loss else 0.0

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + (self.no_number if self.iteration > 4 else 0.0)

    def query_volume(self):
        return super().query_volume() + (torch.inf if self.iteration > 4 else 0.0)


@pytest.mark.parametrize(("loss", "truth"), [(False, torch.zeros(2, 2, 2)), (True, None)])
def test_an_optimisation_that_diverges_ends_at_the_next_point(loss, truth):
    callback = Convergence(truth, points=3)
    with pytest.raises(ValueError, match="diverged by iteration 6, .*; lower its rates"):
        run(callback, 8, Diverging(loss))
    assert callback.history["iteration"] == [2, 4]


def test_no_point_is_refused():
    with pytest.raises(ValueError, match="points is 0"):
        Convergence(points=0)


def test_an_interrupted_mean_goes_on():
    first, second = Convergence(points=1), Convergence(points=1)
    module = Approaching()
    run(first, 3, module)
    # As if the run had been killed in the middle of the only interval.
    first.history, first._loss, first._batches = {}, torch.tensor(6.0), 3
    second.load_state_dict(first.state_dict())
    assert run(second, 3, module)["loss"] == pytest.approx([3.5])

from __future__ import annotations

import warnings

import lightning
import matplotlib.image
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger

from diffnr_lightning.callbacks import SliceImages
from diffnr_lightning.callbacks.slice_images import draw_slices


class Repairing(lightning.LightningModule):
    """Four validation batches of three slices; a slice is told by its grey."""

    def __init__(self, batches=4, returned=None):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(()))
        self.iteration = 0
        self.batches = batches
        self.returned = returned

    def training_step(self, batch, batch_idx):
        self.iteration += 1
        return self.value**2

    def validation_step(self, batch, batch_idx):
        if self.returned is not None:
            return self.returned
        clean = (batch_idx / 10 + torch.arange(3) / 100)[:, None, None].expand(3, 12, 16)
        return {"degraded": clean + 0.2, "repaired": clean + 0.05, "clean": clean}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(range(6))

    def val_dataloader(self):
        return torch.utils.data.DataLoader(range(self.batches))


class Kept(SliceImages):
    """Keeps the greys of the clean slices that would be drawn."""

    def on_validation_end(self, trainer, pl_module):
        self.drawn = [round(float(row["clean"][0, 0]), 2) for row in self._rows]


def fit(callback, module=None, logger=False, **options):
    trainer = lightning.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 1,
            "val_check_interval": 3,
            "logger": logger,
            "callbacks": [callback],
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module or Repairing())


def test_a_picture_after_every_validation_and_none_of_the_sanity_check(tmp_path):
    fit(SliceImages(tmp_path / "new" / "pictures", slices=2), num_sanity_val_steps=2)
    names = sorted(path.name for path in (tmp_path / "new" / "pictures").iterdir())
    assert names == ["slices_0000003.png", "slices_0000006.png"]
    first, second = (
        matplotlib.image.imread(tmp_path / "new" / "pictures" / name) for name in names
    )
    assert first.ndim == 3
    assert np.array_equal(first, second)  # the same slices, and nothing was learned
    assert first[..., :3].std() > 0.05


@pytest.mark.parametrize(
    ("slices", "batches", "drawn"),
    [
        (4, 4, [0.01, 0.11, 0.21, 0.31]),
        (2, 4, [0.1, 0.3]),
        (1, 3, [0.11]),
        (3, 1, [0.0, 0.01, 0.02]),
        (6, 3, [0.0, 0.02, 0.1, 0.12, 0.2, 0.22]),
    ],
)
def test_slices_are_spread_over_the_batches(tmp_path, slices, batches, drawn):
    callback = Kept(tmp_path, slices=slices)
    fit(callback, Repairing(batches))
    assert callback.drawn == drawn


def test_panels_show_degraded_repaired_clean_and_error():
    # One grey for each panel, and an error of the full window on the left, none on the right.
    clean = np.full((40, 40), 0.6, np.float32)
    error = np.where(np.arange(40) < 20, 0.1, 0.0).astype(np.float32)
    row = {"degraded": clean - 0.4, "repaired": clean + error, "clean": clean}
    picture = draw_slices([row], error_window=0.1).astype(int)
    middle = picture[picture.shape[0] // 2 + 5]

    def place(red, green, blue):
        found = np.flatnonzero((np.abs(middle - (red, green, blue)) <= 1).all(axis=1))
        assert len(found) > 20, (red, green, blue)
        return found.mean()

    grey = [place(*3 * [int(255 * value)]) for value in (0.2, 0.7, 0.6)]
    assert grey[0] < grey[1] < place(103, 0, 31)  # the darkest red of the map: repaired is too high
    assert place(247, 247, 247) > place(103, 0, 31)
    assert draw_slices([row, row]).shape[0] == 2 * picture.shape[0]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(path, picture):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("diffnr_lightning.callbacks.slice_images._write_png", full)
    with pytest.raises(ValueError, match="no space"):
        fit(SliceImages(tmp_path))
    assert not list(tmp_path.iterdir())


class Board(Logger):
    """A logger whose experiment takes images, as TensorBoard's does."""

    name, version = "board", 0

    def __init__(self):
        super().__init__()
        self.images = []

    @property
    def experiment(self):
        return self

    def add_image(self, tag, image, step, dataformats):
        self.images.append((tag, image.shape[-1], image.dtype, step, dataformats))

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, *args):
        pass


class Gallery(Board):
    """A logger that takes images itself, as that of Weights & Biases does."""

    add_image = None

    def log_image(self, key, images, step=None):
        self.images.append((key, len(images), images[0].dtype, step))


def test_pictures_go_to_the_loggers_that_take_images(tmp_path):
    board, gallery = Board(), Gallery()
    fit(SliceImages(tmp_path), logger=[board, gallery, CSVLogger(tmp_path)])
    assert board.images == [("val_slices", 3, np.uint8, step, "HWC") for step in (3, 6)]
    assert gallery.images == [("val_slices", 1, np.uint8, step) for step in (3, 6)]


def test_tensorboard_takes_the_picture(tmp_path):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(SliceImages(tmp_path), logger=TensorBoardLogger(tmp_path, name="", version=""))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [image.step for image in events.Images("val_slices")] == [3, 6]


@pytest.mark.parametrize("returned", [torch.zeros(()), {"clean": torch.zeros(1, 2, 2)}])
def test_modules_that_return_no_slices_are_named(tmp_path, returned):
    with pytest.raises(ValueError, match="from validation_step of Repairing; expected a dict"):
        fit(SliceImages(tmp_path), Repairing(returned=returned))


@pytest.mark.parametrize("wrong", [{"slices": 0}, {"error_window": 0}, {"error_window": np.nan}])
def test_options_are_checked(tmp_path, wrong):
    with pytest.raises(ValueError, match="SliceImages got"):
        SliceImages(tmp_path, **wrong)

from __future__ import annotations

import types
import warnings

import lightning
import pytest
import torch
from curated_scans import same, scan

from diffnr_lightning.batches import SlicePair
from diffnr_lightning.data.slice_pairs import (
    SlicePairData,
    write_pairs,
)
from diffnr_lightning.files import SECOND_FINGERPRINT, same_content


@pytest.fixture
def folder(tmp_path):
    for case in ("chest_1", "chest_2", "head_1"):
        for views in (12, 24):
            pairs = scan(case, shape=(6, 12, 12), seed=views)
            info = {"case": case, "views": views}
            tensors = {k: getattr(pairs, k) for k in ("degraded", "clean", "biplanar")}
            write_pairs(tmp_path / "pairs", f"{case}_{views}", **tensors, info=info)
    return tmp_path / "pairs"


class Recorder(lightning.LightningModule):
    """Keeps the batches; counts them under the name that the data asks for."""

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(()))
        self.iteration = 0
        self.seen: list[SlicePair] = []
        self.held_out: list[SlicePair] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        self.iteration += 1
        return (self.value - batch.clean).square().mean()

    def validation_step(self, batch, batch_idx):
        self.held_out.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD([self.value], lr=0.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint):
        self.iteration = checkpoint["iteration"]


class SaveAt(lightning.Callback):
    def __init__(self, batch, path):
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if module.iteration == self.batch:
            trainer.save_checkpoint(self.path)


def run(data, callbacks=(), checkpoint=None) -> Recorder:
    module = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        val_check_interval=data.iterations, callbacks=list(callbacks),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module


class TestData:
    def test_held_out_cases_are_split_off_whole(self, folder):
        data = SlicePairData([folder], 5, held_out=("chest_2", "head*"))
        data.setup("fit")
        assert {s.info["case"] for s in data.training} == {"chest_1"}
        assert {s.info["case"] for s in data.validation} == {"chest_2", "head_1"}
        assert len(data.training) == 2 and len(data.validation) == 4

    def test_several_folders_are_one(self, folder, tmp_path):
        pairs = scan("spine", shape=(6, 12, 12))
        tensors = {k: getattr(pairs, k) for k in ("degraded", "clean", "biplanar")}
        write_pairs(tmp_path / "more", "chest_1_12", **tensors, info=pairs.info)
        data = SlicePairData([folder, tmp_path / "more"], 5, held_out_share=0)
        data.setup("fit")
        assert len(data.training) == 7

    def test_shares_decide_how_often_a_volume_is_drawn(self, folder):
        data = SlicePairData([folder], 5, held_out=("head*",), shares={"chest_1": 4, "*": 1})
        data.setup("fit")
        data.trainer = types.SimpleNamespace(
            global_rank=0, world_size=1, lightning_module=types.SimpleNamespace(iteration=0)
        )
        chances = data.train_dataloader().dataset.chances
        first = [scan.info["case"] == "chest_1" for scan in data.training]
        assert chances[first].sum() == pytest.approx(0.8)
        with pytest.raises(ValueError, match="no pattern for the scans of 'chest_2'"):
            SlicePairData([folder], 5, held_out=("head*",), shares={"chest_1": 4}).setup("fit")

    def test_methods_are_those_of_the_training_scans(self, folder, tmp_path):
        pairs = scan("spine", shape=(6, 12, 12))
        tensors = {k: getattr(pairs, k) for k in ("degraded", "clean", "biplanar")}
        for number, method in enumerate(("VoxelGrid", "analytic", "VoxelGrid", "sirt")):
            info = {"case": f"spine_{number}", "views": 12, "representation": method}
            write_pairs(tmp_path / "more", f"spine_{number}", **tensors, info=info)
        data = SlicePairData([tmp_path / "more"], 5, held_out=("spine_3",))
        data.setup("fit")
        assert data.methods == ["VoxelGrid", "analytic"]
        # Scans that do not say it leave it open.
        data = SlicePairData([folder, tmp_path / "more"], 5)
        data.setup("fit")
        assert data.methods == []

    @pytest.mark.parametrize("takes", [True, False])
    def test_a_prior_that_takes_what_no_pair_has_is_warned_of(self, folder, caplog, takes):
        data = SlicePairData([folder], 5)
        prior = types.SimpleNamespace(residual=takes, noise=False)
        module = types.SimpleNamespace(prior=prior)
        data.trainer = types.SimpleNamespace(lightning_module=module, is_global_zero=True)
        data.setup("fit")
        assert ("takes the residual of each volume, which none" in caplog.text) == takes

    @pytest.mark.parametrize(
        ("size", "looks", "warned"), [(8, True, False), (64, True, True), (64, False, False)]
    )
    def test_a_prior_that_is_given_projections_of_another_size_is_warned_of(
        self, folder, caplog, size, looks, warned
    ):
        data = SlicePairData([folder], 5)
        prior = types.SimpleNamespace(biplanar_size=size, architecture={"biplanar": looks})
        module = types.SimpleNamespace(prior=prior)
        data.trainer = types.SimpleNamespace(lightning_module=module, is_global_zero=True)
        data.setup("fit")
        assert ("curate pairs with biplanar_size 64" in caplog.text) == warned

    def test_nothing_held_out_means_no_validation(self, folder):
        data = SlicePairData([folder], 5, held_out_share=0)
        data.setup("fit")
        assert data.validation == []
        assert data.val_dataloader() == []

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_resumed_run_draws_the_items_of_an_uninterrupted_one(
        self, folder, tmp_path, batch_size
    ):
        def data():
            options = {"held_out": ("head*",), "batch_size": batch_size, "crop": 8, "seed": 7}
            return SlicePairData([folder], 9, validation_slices=2, **options)

        whole = run(data(), [SaveAt(4, tmp_path / "run.ckpt")])
        assert len(whole.seen) == 9
        assert whole.seen[0].clean.shape == (batch_size, 1, 8, 8)
        resumed = run(data(), checkpoint=tmp_path / "run.ckpt")
        assert resumed.iteration == 9
        assert len(resumed.seen) == 5
        assert all(same(a, b) for a, b in zip(resumed.seen, whole.seen[4:], strict=True))
        # 2 scans of the case with 2 snapshots each, in the same order at any time.
        assert len(whole.held_out) == len(resumed.held_out) == 4
        assert all(same(a, b) for a, b in zip(resumed.held_out, whole.held_out, strict=True))

    def test_workers_draw_the_same_items(self, folder):
        def items(workers):
            data = SlicePairData(
                [folder], 4, batch_size=2, crop=8, workers=workers, held_out_share=0
            )
            data.setup("fit")
            data.trainer = types.SimpleNamespace(
                lightning_module=Recorder(), global_rank=0, world_size=1
            )
            return list(data.train_dataloader())

        assert all(same(a, b) for a, b in zip(items(0), items(1), strict=True))

    @pytest.mark.parametrize(
        ("held_out", "match"),
        [
            (("lung*",), "'lung.*no curated case matches; the cases are chest_1, chest_2, head_1"),
            (("*",), "matches every curated case"),
        ],
    )
    def test_patterns_are_checked(self, folder, held_out, match):
        with pytest.raises(ValueError, match=match):
            SlicePairData([folder], 5, held_out=held_out).setup("fit")

    def test_projections_of_several_sizes_are_refused(self, folder):
        pairs = scan("spine", shape=(6, 12, 12))._replace(biplanar=torch.zeros(2, 4, 4))
        tensors = {k: getattr(pairs, k) for k in ("degraded", "clean", "biplanar")}
        write_pairs(folder, "spine", **tensors, info=pairs.info)
        with pytest.raises(ValueError, match=r"shapes \[\(2, 4, 4\), \(2, 8, 8\)\]"):
            SlicePairData([folder], 5).setup("fit")

    @pytest.mark.parametrize(
        ("wrong", "match"),
        [
            ({"folders": []}, "folders is or has the length 0"),
            ({"iterations": 0}, "iterations is or has the length 0"),
            ({"crop": 0}, "crop"),
            ({"batch_size": -1}, "batch_size"),
            ({"planes": ()}, "planes"),
            ({"zoom": (0, 1)}, r"zoom is \(0, 1\); expected 0 < low <= high"),
            ({"gain": (2, 1)}, "gain is"),
            ({"dropout": 1.5}, r"expected shares in \[0, 1\]"),
            ({"empty_share": -0.1}, r"expected shares in \[0, 1\]"),
        ],
    )
    def test_options_are_checked(self, folder, wrong, match):
        with pytest.raises(ValueError, match=match):
            SlicePairData(**{"folders": [folder], "iterations": 5, **wrong})


def test_a_run_that_names_no_volumes_holds_out_one(folder):
    data = SlicePairData([folder], 5)
    data.setup("fit")
    assert len(data.held_out_volumes) == 1
    held = {scan.info["case"] for scan in data.validation}
    assert held == set(data.held_out_volumes)
    assert held.isdisjoint(scan.info["case"] for scan in data.training)


def test_what_is_held_out_is_said_once(folder, caplog):
    data = SlicePairData([folder], 5)
    with caplog.at_level("INFO", "diffnr"):
        data.setup("fit")
        data.trainer = types.SimpleNamespace(is_global_zero=True, lightning_module=None)
        data.setup("fit")
    assert caplog.text.count("held out:") == 1


def test_the_share_that_is_held_out_is_checked(folder):
    with pytest.raises(ValueError, match="held_out_share is 1.0"):
        SlicePairData([folder], 5, held_out_share=1.0)


def test_pairs_that_were_curated_anew_are_another_content(folder):
    """Names and shapes are the same, so that the fingerprint of earlier versions is too."""

    def content():
        data = SlicePairData([folder], 3, crop=8)
        data.setup("fit")
        return data.content

    before = content()
    assert content() == before
    pairs = scan("head_1", shape=(6, 12, 12), seed=99)
    tensors = {k: getattr(pairs, k) for k in ("degraded", "clean", "biplanar")}
    write_pairs(folder, "head_1_12", **tensors, info={"case": "head_1", "views": 12})
    assert not same_content(before, content())
    assert same_content(before.partition(SECOND_FINGERPRINT)[0], content())

"""Finished runs of weights that were trained anew under the same path are not taken for those of the new ones."""

import pytest

from diffnr_lightning.files import write_bytes, write_json
from diffnr_lightning.workflows.runs import weights_record as record
from diffnr_lightning.workflows.runs.run_folder import RunFolder


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens a run whose settings name weights."""

    def opened(weights):
        run = RunFolder(tmp_path / "run", {"prior": {"weights": str(weights)}, "variant": ""})
        if not run.finished:
            run.facts["weights"] = record.weights_record([weights])
        run.open()
        return run

    return opened


@pytest.mark.parametrize("name", ["weights.safetensors", "denoiser"])
def test_a_finished_run_of_other_weights_is_refused(opened, tmp_path, name):
    place = tmp_path / name
    file = place if "." in name else place / "unet" / "model.safetensors"
    write_bytes(file, b"learned")
    opened(place).finish({})
    assert opened(place).finished
    write_bytes(file, b"learned for longer")
    with pytest.raises(ValueError, match=f"another content of weights .*{name}.*give another"):
        opened(place)
    # What is gone may lie elsewhere.
    place.rename(tmp_path / "elsewhere")
    assert opened(place).finished


def test_further_weights_in_a_folder_that_settings_name_change_no_run(opened, tmp_path):
    write_bytes(tmp_path / "trained" / "prior" / "weights.safetensors", b"learned")
    opened(tmp_path / "trained").finish({})
    write_bytes(tmp_path / "trained" / "other" / "weights.safetensors", b"something else")
    assert opened(tmp_path / "trained").finished


def test_a_finished_run_of_weights_of_an_earlier_package_stays(
    opened, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(record, "PACKAGE", tmp_path)
    file = write_bytes(tmp_path / "assets" / "prior.safetensors", b"learned")
    opened(file).finish({})
    run = opened(file)
    assert run.environment["weights"].keys() == {"assets/prior.safetensors"}
    assert not caplog.records
    write_bytes(file, b"learned for longer")
    assert opened(file).finished
    assert "other weights of the package" in caplog.text
    assert "assets/prior.safetensors" in caplog.text


def test_runs_without_a_record_are_left_alone(opened, tmp_path):
    file = write_bytes(tmp_path / "weights.safetensors", b"learned")
    run = opened(file)
    run.finish({})
    described = {key: value for key, value in run.environment.items() if key != "weights"}
    write_json(run.path / "environment.json", described)
    write_bytes(file, b"learned for longer")
    assert opened(file).finished

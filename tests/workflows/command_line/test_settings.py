"""From config files and values to the arguments of a workflow, without a command line."""

from pathlib import Path

import fake_workflows
import pytest
import torch

from diffnr_lightning.workflows import finetune, submit
from diffnr_lightning.workflows.command_line.settings import configured, parse
from diffnr_lightning.workflows.reconstruction import reconstruct

METHOD = """
method:
  class_path: fake_workflows.Solver
  init_args: {iterations: 7, body: {class_path: fake_workflows.Body, init_args: {count: 9}}}
seed: 1
"""
WHERE = {"case": Path("007"), "out": Path("null")}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(METHOD)
    return path


def test_overrides_win_over_the_files_and_leave_the_rest(config, tmp_path):
    second = tmp_path / "second.yaml"
    second.write_text("seed: 2\nnoise: {photons: 5}\n")
    overrides = {**WHERE, "noise.mode": "tigre", "method": {"init_args": {"iterations": 8}}}
    settings = configured(fake_workflows.reconstruct, [config, str(second)], overrides)
    assert settings.arguments["method"].iterations == 8
    assert settings.arguments["method"].body(1).count == 9
    assert settings.arguments["noise"] == fake_workflows.Noise(5.0, "tigre")
    assert settings.arguments["seed"] == 2
    assert settings.arguments["case"] == Path("007")
    assert settings.arguments["out"] == Path("null")
    assert settings.arguments["resolved"] == settings.resolved


def test_they_are_what_the_command_line_gives(config):
    by_options = parse(
        fake_workflows.reconstruct,
        [f"--config={config}", "--case=a", "--out=b", "--noise.photons=null", "--seed=3"],
    )
    overrides = {"case": "a", "out": Path("b"), "noise.photons": None, "seed": 3}
    by_values = configured(fake_workflows.reconstruct, [config], overrides)
    assert by_values.resolved == by_options.resolved


def test_no_config_is_needed():
    settings = configured(fake_workflows.evaluate, [], {"runs": [Path("a"), "b c"]})
    assert settings.arguments == {"runs": [Path("a"), Path("b c")], "window_hu": None}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"sead": 3}, "unknown key 'sead'; did you mean seed"),
        ({"noise.photon": 3}, "noise.photon'; did you mean noise.photons"),
        ({"noise.photons": "many"}, "--noise.photons is 'many'; float or null is expected"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(config, overrides, words):
    with pytest.raises(ValueError, match=words):
        configured(fake_workflows.reconstruct, [config], {**WHERE, **overrides})


def test_a_file_that_is_missing_is_named():
    with pytest.raises(FileNotFoundError, match="config nothing.yaml does not exist"):
        configured(fake_workflows.reconstruct, ["nothing.yaml"], WHERE)


@pytest.mark.parametrize("name", ["align", "naf+align"])
def test_a_config_of_another_folder_is_proposed(name):
    with pytest.raises(FileNotFoundError, match="did you mean diffnr/align.yaml"):
        configured(fake_workflows.reconstruct, [name], WHERE)


def test_configs_for_methods_of_two_kinds_are_not_merged(config, tmp_path):
    # The second replaced the first, and the run had the name of both.
    second = tmp_path / "second.yaml"
    second.write_text("method: {class_path: fake_workflows.Warped, init_args: {turns: 2}}")
    words = (
        "second.yaml is for a method of class Warped, and .*config.yaml gives one of class Solver"
    )
    with pytest.raises(ValueError, match=words):
        configured(fake_workflows.reconstruct, [config, second], WHERE)
    with pytest.raises(ValueError, match=words):
        options = [f"--config={config}", f"--config={second}", "--case=a", "--out=b"]
        parse(fake_workflows.reconstruct, options)


@pytest.mark.parametrize("names", ["diffnr/align+naf", "naf+diffnr/align+r2gaussian"])
def test_a_method_over_its_overlay_is_refused(names):
    # Its start replaced that of the overlay, and the run had the overlay's name.
    with pytest.raises(ValueError, match=r"is a method and stands behind .*align\.yaml, of whose"):
        configured(reconstruct, [names], WHERE)


def test_an_option_may_still_replace_the_method_of_a_config(config):
    node = {"class_path": "fake_workflows.Solver", "init_args": {"iterations": 3}}
    settings = configured(fake_workflows.reconstruct, [config], {**WHERE, "method": node})
    assert settings.resolved["method"]["init_args"]["iterations"] == 3


SAMPLER = "method: {{class_path: diffnr_lightning.workflows.Sampler, init_args: {}}}\n"


def options_of(folder, *given):
    """Return a sampler's options by configs whose init_args are given, by name and on the command line."""
    files = [folder / f"{number}.yaml" for number, _ in enumerate(given)]
    for file, text in zip(files, given, strict=True):
        file.write_text(SAMPLER.format(text))
    settings = configured(reconstruct, files, {"case": folder, "out": folder / "run"})
    words = ["--case", str(folder), "--out", str(folder / "run")]
    words += [word for file in files for word in ("--config", str(file))]
    assert parse(reconstruct, words).resolved == settings.resolved
    return settings.resolved["method"]["init_args"]["options"]


def test_options_of_a_later_config_leave_the_others_of_an_earlier_one(tmp_path):
    slices, steps = "{name: dds, options: {coupling: 0.0, steps: 50}}", "{options: {steps: 20}}"
    assert options_of(tmp_path, slices, steps) == {"coupling": 0.0, "steps": 20}
    assert options_of(tmp_path, slices, steps, "{counted_noise: true}") == {
        "coupling": 0.0,
        "steps": 20,
    }


def test_options_of_another_function_begin_anew(tmp_path):
    slices = "{name: dds, options: {coupling: 0.0}}"
    assert options_of(tmp_path, slices, "{name: patches, options: {tilings: 2}}") == {"tilings": 2}
    assert not options_of(tmp_path, slices, "{name: patches}")
    assert not options_of(tmp_path, slices, "{options: null}")


def test_options_on_the_command_line_replace_those_of_configs(tmp_path):
    file = tmp_path / "slices.yaml"
    file.write_text(SAMPLER.format("{name: dds, options: {coupling: 0.0}}"))
    words = ["--config", str(file), "--case", str(tmp_path), "--out", str(tmp_path / "run")]
    given = parse(reconstruct, [*words, "--method.init_args.options", "{steps: 3}"])
    assert given.resolved["method"]["init_args"]["options"] == {"steps": 3}


def mappings_of(folder, function, *given, **overrides):
    """Return the settings of configs, by name and on the command line."""
    files = [folder / f"{number}.yaml" for number, _ in enumerate(given)]
    for file, text in zip(files, given, strict=True):
        file.write_text(text)
    settings = configured(function, files, overrides).resolved
    words = [f"--config={file}" for file in files] + [f"--{k}={v}" for k, v in overrides.items()]
    assert parse(function, words, build=False).resolved == settings
    return settings


def test_mappings_of_several_configs_are_joined(tmp_path):
    def options(*given):
        return mappings_of(tmp_path, submit, *given, command="doctor")["options"]

    first = "options: {mem_gb: 4, slurm_setup: [a], own: {b: 1}}"
    assert options(first, "options: {partition: x, own: {c: 2}}", "jobs: 2") == {
        "mem_gb": 4,
        "slurm_setup": ["a"],
        "own": {"b": 1, "c": 2},
        "partition": "x",
    }
    assert options(first, "options: {slurm_setup: [b], mem_gb: null}")["slurm_setup"] == ["b"]
    assert options(first, "options: null") is None
    assert options(first, "options: {}") == {}
    assert options(first, "options: null", "options: {mem_gb: 2}") == {"mem_gb": 2}


def test_callbacks_of_several_configs_are_joined(tmp_path):
    def callbacks(second):
        first = "{one: {class_path: Timer, init_args: {interval: epoch}}}"
        texts = [f"callbacks: {text}" for text in (first, second)]
        given = {"data.folders": "[a]", "data.iterations": 1, "out": str(tmp_path / "run")}
        found = mappings_of(tmp_path, finetune, *texts, **given)["callbacks"]
        return {name: node["class_path"].rpartition(".")[2] for name, node in found.items()}, found

    assert callbacks("{two: {class_path: ModelSummary}}")[0] == {
        "one": "Timer",
        "two": "ModelSummary",
    }
    kinds, found = callbacks("{one: {class_path: ModelSummary}}")
    assert kinds == {"one": "ModelSummary"}
    assert "interval" not in found["one"]["init_args"]


def test_an_entry_that_is_null_or_a_list_leaves_the_others(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("options: {mem_gb: 4, slurm_partition: x}\n")
    words = [f"--config={config}", "--command=doctor", "--options.timeout_min", "5"]
    words += ["--options.mem_gb", "null", "--options.slurm_setup", "a", "7"]
    assert parse(submit, words).resolved["options"] == {
        "mem_gb": None,
        "slurm_partition": "x",
        "timeout_min": 5,
        "slurm_setup": ["a", 7],
    }
    config.write_text(SAMPLER.format("{name: dds, options: {coupling: 0.0}}"))
    words = [f"--config={config}", "--case", str(tmp_path), "--out", str(tmp_path / "run")]
    words += ["--method.init_args.options.noise", "null"]
    method = parse(reconstruct, words, build=False).resolved["method"]["init_args"]
    assert method["options"] == {"coupling": 0.0, "noise": None}


def test_names_of_a_list_may_be_any(tmp_path):
    odd = ["\U0001f600/a b", "c\x7f\x85 \u2028 \ufeff\ufffe", "\x01\t\"\\ '"]
    for names in (odd, ["[old] x"], ["[ab]*.nii.gz"]):
        found = parse(fake_workflows.evaluate, ["--runs", *names]).resolved["runs"]
        assert found == names
    assert parse(fake_workflows.evaluate, ["--runs", "[a, b]"]).resolved["runs"] == ["a", "b"]


def test_names_that_are_no_utf_8_are_refused(tmp_path):
    for words in (["--runs", "a", "K\udcf6ln"], ["--runs", "a", "--out=K\udcf6ln"]):
        with pytest.raises(
            ValueError, match=r"^--(runs|out) is given '\S*K\\udcf6ln', which is no"
        ):
            parse(fake_workflows.evaluate, words)


def test_a_discriminator_that_options_name_is_drawn_after_them():
    judge = "--module.init_args.discriminator"
    words = ["--config", "tiny/finetune", "--data.folders", "pairs", "--out", "run"]
    words += [judge, "diffnr_lightning.priors.PatchDiscriminator", f"{judge}.init_args.width", "8"]
    drawn = []
    for before in (1, 2):  # numbers that a process has drawn by then
        torch.manual_seed(before)
        arguments = parse(finetune, words).arguments
        torch.manual_seed(0)
        drawn.append(arguments["module"](arguments["prior"]()).discriminator.state_dict())
    assert drawn[0]["layers.0.bias"].numel() == 8
    assert all(torch.equal(weight, drawn[1][name]) for name, weight in drawn[0].items())


def test_a_tilde_is_the_home_folder_in_configs_and_behind_an_equals_sign(
    tmp_path, monkeypatch, config
):
    """Shells replace it in words of their own alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "places.yaml").write_text("case: ~/cases/a\n")
    options = ["--config=~/places.yaml", f"--config={config}", "--out=~/runs"]
    settings = parse(fake_workflows.reconstruct, options)
    assert settings.arguments["case"] == tmp_path / "cases" / "a"
    assert settings.resolved["out"] == str(tmp_path / "runs")

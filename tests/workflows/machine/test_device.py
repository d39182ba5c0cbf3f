import pytest
import torch

from diffnr_lightning import cli
from diffnr_lightning.workflows.machine.device import use_device
from diffnr_lightning.workflows.training.trainer_options import trainer_device

COMMANDS = {
    "reconstruct": ["--case", ".", "--config", "fdk"],
    "sweep": ["--volumes", "phantom:1", "--methods", "fdk", "--views", "8"],
    "curate": ["--volumes", "phantom:1", "--config", "configs/tiny/curate.yaml"],
    "train-denoiser": ["--config", "configs/tiny/train-denoiser.yaml"],
    "finetune": ["--config", "configs/tiny/finetune.yaml", "--data.folders", "."],
}


def test_the_words_of_a_device(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    assert use_device("cpu") == torch.device("cpu")
    assert use_device("cuda") == torch.device("cuda", 0)
    assert use_device("cuda:1") == torch.device("cuda", 1)
    assert chosen == [0, 1]
    assert torch.backends.cudnn.deterministic
    assert trainer_device("cuda:1", 1) == ("gpu", [1])
    assert trainer_device("cpu", 1) == ("cpu", 1)
    with pytest.raises(ValueError, match="a number below 2"):
        use_device("cuda:2")
    with pytest.raises(ValueError, match="give device for one, or devices for several"):
        trainer_device("cuda:1", 2)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda:99", "device is 'cuda:99' but torch finds"),
        ("tpu", "cpu, cuda or cuda:N is expected"),
    ],
)
def test_all_commands_refuse_a_device_before_they_write(
    command, device, words, repository, tmp_path, capsys, monkeypatch
):
    options = [option.replace("configs/", f"{repository}/configs/") for option in COMMANDS[command]]
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, *options, "--device", device, "--out", "out"]) == cli.USAGE_ERROR
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

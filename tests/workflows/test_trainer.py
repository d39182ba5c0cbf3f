"""Lightning's Trainer leaves queues and checkpoints to us."""

import warnings

from diffnr_lightning.workflows.trainer import quiet_trainer


def test_lightning_queues_no_job_again(monkeypatch):
    for name, value in {"NTASKS": "1", "PROCID": "0", "LOCALID": "0", "JOB_NAME": "x"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    trainer = quiet_trainer(accelerator="cpu", devices=1, logger=False)
    assert trainer._accelerator_connector.cluster_environment.auto_requeue is False


def test_a_node_without_a_job_is_no_reason_to_warn(tmp_path, monkeypatch):
    srun = tmp_path / "srun"
    srun.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    with warnings.catch_warnings(record=True) as told:
        quiet_trainer(accelerator="cpu", devices=1, logger=False)
    assert not [warning for warning in told if "srun" in str(warning.message)]

import torch

from diffnr_lightning.callbacks import Snapshots


class Growing:
    """Stands for a module whose volume is filled with the number of the batch."""

    iteration = 0
    density = torch.nn.Parameter(torch.ones(2, 3, 4))

    def query_volume(self):
        return self.iteration * self.density


def test_volumes_are_kept_at_the_batches_named():
    module, snapshots = Growing(), Snapshots([2, 5, 5])
    for module.iteration in range(1, 8):
        snapshots.on_train_batch_end(None, module, None, None, module.iteration - 1)
    assert list(snapshots.volumes) == [2, 5]
    for iteration, volume in snapshots.volumes.items():
        assert not volume.requires_grad
        torch.testing.assert_close(volume, torch.full((2, 3, 4), float(iteration)))

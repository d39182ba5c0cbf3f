import torch

from diffnr_lightning.batches import CleanPatches, CleanSlices
from diffnr_lightning.modules.noise_examples import noise_example
from diffnr_lightning.priors import CompactDenoiser, PatchDenoiser
from diffnr_lightning.volume_patches import whole_in_patch


def drawn(batch, denoiser, seed=0):
    return noise_example(batch, denoiser, torch.Generator().manual_seed(seed))


def test_a_slice_that_fills_its_stack_brings_one_noise():
    stacks = torch.rand(3, 3, 8, 8)
    batch = CleanSlices(stacks, torch.tensor([0, 1, 3]), torch.zeros(3, 2, 8, 8))
    example = drawn(batch, CompactDenoiser(widths=(8, 16)))
    torch.testing.assert_close(example.clean, 2 * stacks - 1)
    assert torch.equal(example.noise[0, 0], example.noise[0, 2])
    assert not torch.equal(example.noise[1, 0], example.noise[1, 2])
    assert set(example.told) == {"gap", "coordinates"}


def test_patches_see_their_own_noise_in_the_whole_volume():
    volume, corner = torch.rand(16, 16, 16), torch.tensor([[0, 4, 8], [8, 8, 8]])
    denoiser = PatchDenoiser(8, (8, 16))
    example = drawn(CleanPatches(volume, corner), denoiser)
    step = torch.tensor([200, 700])
    noisy, told = example.noisy(denoiser.schedule, step)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(16, 16, 16, generator=generator)
    for item, (z, y, x) in enumerate(corner.tolist()):
        whole = denoiser.schedule.add_noise(2 * volume - 1, noise, int(step[item]))
        patch = whole[z : z + 8, y : y + 8, x : x + 8]
        torch.testing.assert_close(noisy[item, 0], patch)
        context = whole_in_patch(whole[None, None], 8)[0]
        torch.testing.assert_close(told["context"][item], context)
    assert told["coordinates"][1, :, -1, -1, -1].tolist() == [1, 1, 1]

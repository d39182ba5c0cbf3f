import torch

from diffnr_lightning.draws import generator_at


def test_a_draw_follows_from_seed_number_and_stream():
    first = torch.rand(4, generator=generator_at(3, 5))
    assert torch.equal(first, torch.rand(4, generator=generator_at(3, 5)))
    seeds = [
        generator_at(seed, number, stream=stream).initial_seed()
        for seed, number, stream in ((3, 5, 0), (3, 6, 0), (4, 5, 0), (3, 5, 10**15))
    ]
    assert seeds == [3_000_014, 3_000_015, 4_000_017, 10**15 + 3_000_014]

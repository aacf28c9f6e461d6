from __future__ import annotations

import pytest
import torch

from fpo_torchrl import FixedNoise, RandomNoise, ZeroNoise


def test_random_noise_is_standard_normal():
    noise = RandomNoise().sample((20_000, 2), like=torch.empty(0, dtype=torch.float64))
    torch.testing.assert_close(noise.mean(0), torch.zeros(2, dtype=torch.float64), atol=0.03, rtol=0)
    torch.testing.assert_close(noise.std(0), torch.ones(2, dtype=torch.float64), atol=0.03, rtol=0)
    assert torch.corrcoef(noise.T)[0, 1].abs() < 0.03


def test_zero_noise_is_the_origin():
    assert not ZeroNoise().sample((5, 2), like=torch.empty(0)).any()


def test_fixed_noise_is_one_draw_for_every_observation_and_call():
    noise = FixedNoise(seed=3)
    first = noise.sample((5, 7, 2), like=torch.empty(0))
    assert torch.equal(first, first[:1, :1].expand(5, 7, 2))
    torch.manual_seed(99)
    assert torch.equal(noise.sample((4, 2), like=torch.empty(0)), first[0, :4])
    assert torch.equal(FixedNoise(seed=3).sample((1, 2), like=torch.empty(0)), first[0, :1])


def test_fixed_noise_differs_between_seeds():
    draws = torch.stack([FixedNoise(seed).sample((8,), like=torch.empty(0)) for seed in range(4)])
    assert len(draws.unique(dim=0)) == 4


def test_fixed_noise_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    FixedNoise(seed=1).sample((4, 2), like=torch.empty(0))
    assert torch.equal(torch.rand(3), expected)


def test_fixed_noise_is_a_constant_of_a_whole_compiled_graph():
    noise = FixedNoise(seed=3)
    whole = {"backend": "eager", "fullgraph": True, "dynamic": False}
    compiled = torch.compile(lambda x: x + noise.sample(x.shape, like=x), **whole)
    for size in (2, 3):
        x = torch.ones(4, size)
        assert torch.equal(compiled(x), 1 + noise.sample((4, size), like=x))


@pytest.mark.parametrize("noise", [RandomNoise(), ZeroNoise(), FixedNoise()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_follow_the_request(noise, dtype):
    draw = noise.sample((4, 3, 2), like=torch.empty(0, dtype=dtype))
    assert draw.shape == (4, 3, 2)
    assert draw.dtype == dtype


def test_fixed_noise_first_drawn_in_inference_mode_serves_gradients_later():
    noise, like = FixedNoise(seed=987), torch.zeros(3)
    with torch.inference_mode():
        noise.sample((4, 3), like)
    weight = torch.ones(3, requires_grad=True)
    (noise.sample((4, 3), like) * weight).sum().backward()
    assert weight.grad is not None


def test_fixed_noise_is_drawn_on_the_cpu_whatever_torchs_default_device_is():
    like = torch.zeros(1)
    with torch.device("meta"):
        drawn = FixedNoise(seed=20_201).sample((3,), like=like)
    assert torch.equal(drawn, torch.randn(3, generator=torch.Generator().manual_seed(20_201)))

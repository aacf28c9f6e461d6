from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from fpo_torchrl import ObservationNormalizer, ValueMLP, VelocityMLP
from fpo_torchrl.modules import CosSinTimeEmbedding, FourierTimeEmbedding, IdentityTimeEmbedding


class TestTimeEmbedding:
    def test_known_angles(self):
        """At time pi/2 the angles are a quarter turn, a half turn, a full turn and two turns."""
        embedding = CosSinTimeEmbedding(8)(torch.tensor([[0.0], [math.pi / 2]]))
        expected = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 0], [0.0, -1, 1, 1, 1, 0, 0, 0]])
        torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=0)

    def test_fourier_features_with_whole_frequencies_repeat_after_the_flow(self):
        embedding = FourierTimeEmbedding(4)
        embedding.frequencies.copy_(2 * math.pi * torch.tensor([1.0, 3.0]))
        time = torch.rand(5, 1)
        torch.testing.assert_close(embedding(time), embedding(time + 1), atol=1e-5, rtol=0)

    def test_fourier_frequencies_are_drawn_with_the_scale_and_saved(self):
        embedding = FourierTimeEmbedding(20_000, scale=3.0)
        cycles = embedding.frequencies / (2 * math.pi)
        assert cycles.std().item() == pytest.approx(3.0, rel=0.03)
        other = FourierTimeEmbedding(20_000, scale=3.0)
        other.load_state_dict(embedding.state_dict())
        assert torch.equal(other(torch.tensor([0.3])), embedding(torch.tensor([0.3])))

    @pytest.mark.parametrize("num_features", [0, 3])
    def test_an_odd_size_is_refused(self, num_features):
        with pytest.raises(ValueError, match=f"positive even number, got {num_features}"):
            CosSinTimeEmbedding(num_features)


class TestVelocityMLP:
    @staticmethod
    def plain(net: VelocityMLP, activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
        """The same weights as a torch network of the concatenated inputs."""
        layers = [layer for linear in net.layers for layer in (linear, activation())]
        return nn.Sequential(*layers[:-1])

    @pytest.mark.parametrize("observation_shape", [(5, 1, 3), (5, 8, 3), (1, 1, 3)])
    @pytest.mark.parametrize("time_shape", [(5, 8, 1), (1,)])
    @pytest.mark.parametrize("embedding", [None, FourierTimeEmbedding(6), IdentityTimeEmbedding()])
    def test_it_is_a_perceptron_of_the_concatenated_inputs(self, observation_shape, time_shape, embedding):
        net = VelocityMLP(3, 2, hidden_sizes=(16, 8), time_embedding=embedding, output_scale=0.5)
        observation, x_t, time = torch.randn(observation_shape), torch.randn(5, 8, 2), torch.rand(time_shape)
        features = net.time_embedding(time).expand(5, 8, -1)
        expected = 0.5 * self.plain(net)(torch.cat([observation.expand(5, 8, 3), x_t, features], -1))
        torch.testing.assert_close(net(observation, x_t, time), expected)

    @pytest.mark.parametrize(("name", "layer"), [("relu", nn.ReLU), ("tanh", nn.Tanh), (nn.GELU, nn.GELU)])
    def test_the_activation_is_the_one_asked_for(self, name, layer):
        net = VelocityMLP(3, 2, hidden_sizes=(16, 8), activation=name, output_scale=1.0)
        observation, x_t, time = torch.randn(5, 3), torch.randn(5, 2), torch.rand(5, 1)
        joined = torch.cat([observation, x_t, net.time_embedding(time)], -1)
        torch.testing.assert_close(net(observation, x_t, time), self.plain(net, layer)(joined))

    @pytest.mark.parametrize(("init", "bound"), [("lecun_uniform", math.sqrt(3 / 400)), ("torch", math.sqrt(1 / 400))])
    def test_weights_are_drawn_within_the_bound_of_the_initialisation(self, init, bound):
        weight = VelocityMLP(391, 1, hidden_sizes=(1000,), init=init).layers[0].weight
        assert 0.999 * bound < weight.abs().max() <= bound

    def test_an_unknown_initialisation_is_refused(self):
        with pytest.raises(ValueError, match="init must be one of lecun_uniform, torch, got 'orthogonal'"):
            VelocityMLP(3, 2, init="orthogonal")

    def test_an_unknown_activation_is_refused(self):
        with pytest.raises(ValueError, match="activation must be one of silu, relu, tanh or a class, got 'swish'"):
            VelocityMLP(3, 2, activation="swish")

    def test_a_first_layer_of_ones_own_is_called(self):
        class Shifted(nn.Linear):
            def forward(self, x):
                return super().forward(x) + 1

        net = VelocityMLP(3, 2, hidden_sizes=(16, 8), output_scale=1.0)
        observation, x_t, time = torch.randn(5, 1, 3), torch.randn(5, 8, 2), torch.rand(5, 8, 1)
        calls = []
        handle = net.layers[0].register_forward_hook(lambda *call: calls.append(call))
        hooked = net(observation, x_t, time)
        handle.remove()
        torch.testing.assert_close(hooked, net(observation, x_t, time))
        assert len(calls) == 1
        own = Shifted(net.layers[0].in_features, 16)
        own.load_state_dict(net.layers[0].state_dict())
        with torch.no_grad():
            own.bias -= 1
        net.layers[0] = own
        torch.testing.assert_close(net(observation, x_t, time), hooked)

    def test_a_first_layer_may_be_pruned(self):
        net = VelocityMLP(3, 2, hidden_sizes=(16,))
        prune.l1_unstructured(net.layers[0], "weight", amount=0.5)  # a hook computes the weight anew in each call
        for _ in range(2):
            net(torch.randn(5, 3), torch.randn(5, 2), torch.rand(5, 1)).sum().backward()

    def test_gradients_equal_those_of_the_concatenated_network(self):
        net = VelocityMLP(3, 2, hidden_sizes=(16,), output_scale=1.0)
        observation, x_t, time = torch.randn(5, 1, 3), torch.randn(5, 8, 2), torch.rand(5, 8, 1)
        joined = torch.cat([observation.expand(5, 8, 3), x_t, net.time_embedding(time)], -1)
        split = torch.autograd.grad(net(observation, x_t, time).square().sum(), list(net.parameters()))
        plain = torch.autograd.grad(self.plain(net)(joined).square().sum(), list(net.parameters()))
        torch.testing.assert_close(split, plain, rtol=1e-4, atol=1e-5)

    def test_without_a_nonlinearity_it_is_affine_in_x_t(self):
        """So the chosen activation stands between all layers, and nothing else does."""
        net = VelocityMLP(3, 2, hidden_sizes=(4, 4), activation=nn.Identity)
        f = lambda x_t: net(torch.ones(3), x_t, torch.ones(1))  # noqa: E731
        a, b = torch.randn(2), torch.randn(2)
        torch.testing.assert_close(f(a + b) + f(torch.zeros(2)), f(a) + f(b))

    def test_weights_start_with_variance_one_over_fan_in_and_biases_at_zero(self):
        net = VelocityMLP(300, 2, hidden_sizes=(400,))
        first = net.layers[0]
        assert first.weight.var().item() == pytest.approx(1 / (300 + 2 + 8), rel=0.03)
        assert not any(layer.bias.any() for layer in net.layers)

    def test_a_hidden_layer_without_units_is_refused(self):
        with pytest.raises(ValueError, match=r"hidden_sizes must be at least 1 each, got \[16, 0\]"):
            VelocityMLP(3, 2, hidden_sizes=(16, 0))


class TestValueMLP:
    def test_it_is_a_perceptron_of_the_normalised_observation(self):
        normalizer = ObservationNormalizer(3)
        normalizer.update(torch.randn(50, 3) * 4 + 1)
        net = ValueMLP(3, hidden_sizes=(16, 8), normalizer=normalizer)
        observation = torch.randn(5, 7, 3)
        expected = TestVelocityMLP.plain(net)(normalizer(observation))
        assert expected.shape == (5, 7, 1)
        torch.testing.assert_close(net(observation), expected)

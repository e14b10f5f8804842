"""Convolutions through the frequency domain give the results of ordinary ones."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fourier import FourierConv2d, InnermostMaxPool2d, through_frequency
from models.lenet_pp import LeNetPP
from training.building import specialize
from training.hardware import choose_convolutions
from training.settings import Plan
from utils import UserError

LAYERS = ((1, 32, 28), (32, 32, 28), (32, 64, 14), (64, 64, 14), (64, 128, 7), (128, 128, 7))  # in, out, side


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest error, relative to the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def passes(layer: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """Return a layer's values and the gradients of weight, bias and, unless it is an image, input."""
    x = x.clone().requires_grad_(x.shape[1] > 1)
    y = layer(x)
    y.backward(gradient.to(y.dtype))
    of_input = () if x.grad is None else (x.grad,)
    return y.detach(), layer.weight.grad, layer.bias.grad, *of_input  # type: ignore[return-value]


@pytest.mark.parametrize(("inputs", "outputs", "side"), LAYERS)
@pytest.mark.parametrize("batch", [1, 7, 16])
def test_values_and_gradients(threads: int, inputs: int, outputs: int, side: int, batch: int) -> None:
    torch.manual_seed(batch)
    layer = nn.Conv2d(inputs, outputs, 5, padding=2)
    x, gradient = torch.randn(batch, inputs, side, side) + 0.5, torch.randn(batch, outputs, side, side)
    expected = passes(copy.deepcopy(layer).double(), x.double(), gradient.double())
    fourier = nn.Sequential(layer)
    through_frequency(fourier)
    assert type(fourier[0]) is FourierConv2d
    found = passes(fourier[0], x, gradient)
    assert [one.shape for one in found] == [one.shape for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) < 3e-6


@pytest.mark.parametrize(("inputs", "outputs", "side"), LAYERS[1:])
def test_bf16_errs_like_bf16(inputs: int, outputs: int, side: int) -> None:
    """Under autocast the mean square error is at most three times that of the ordinary bf16 convolution."""

    def error(found: Tensor, expected: Tensor) -> float:
        return float((found.double() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt())

    layer = nn.Conv2d(inputs, outputs, 5, padding=2)
    x, gradient = torch.randn(8, inputs, side, side) + 0.5, torch.randn(8, outputs, side, side)
    expected = passes(copy.deepcopy(layer).double(), x.double(), gradient.double())
    fourier = nn.Sequential(copy.deepcopy(layer))
    through_frequency(fourier)
    with torch.autocast("cpu", torch.bfloat16):
        direct, found = passes(layer, x, gradient), passes(fourier[0], x, gradient)
    assert found[0].dtype == torch.bfloat16
    assert found[1].dtype == torch.float32
    for one, other, true in zip(found, direct, expected, strict=True):
        assert error(one, true) < 3 * error(other, true) + 1e-3


@pytest.mark.parametrize("side", [28, 14, 7, 5])
def test_pooling_is_torch_s_with_ties_and_odd_sides(side: int) -> None:
    torch.manual_seed(side)
    x = torch.randn(3, 4, side, side).mul(2).round().requires_grad_()
    expected = F.max_pool2d(x, 2)
    gradient = torch.randn_like(expected)
    (of_x,) = torch.autograd.grad(expected, x, gradient)
    found = InnermostMaxPool2d(2)(x)
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found, x, gradient)[0], of_x)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("batch", [1, 9])
def test_the_whole_network(threads: int, overlapping: bool, batch: int) -> None:
    direct = LeNetPP(3, feature_prelu=True, overlapping_pool=overlapping)
    fourier = copy.deepcopy(direct)
    specialize(fourier, Plan(compile="off", convolutions="fourier"), torch.device("cpu"))
    exact = copy.deepcopy(direct).double()
    images = torch.randn(batch, 1, 28, 28)
    gradients = []
    for model, x in ((fourier, images), (exact, images.double())):
        features = model(x)
        (features**2).sum().backward()
        gradients.append([parameter.grad.double() for parameter in model.parameters()])
    with torch.no_grad():
        assert relative(fourier(images), exact(images.double())) < 1e-5
    for found, expected in zip(*gradients, strict=True):  # rounding may move a maximum to a nearly equal place
        assert float((found - expected).norm() / expected.norm()) < 5e-3

    assert list(fourier.state_dict()) == list(direct.state_dict())  # each can load the other's
    fourier.load_state_dict(direct.state_dict())
    direct.load_state_dict(fourier.state_dict())
    with torch.no_grad():
        assert torch.equal(fourier(images), fourier(images))  # bit for bit
        assert relative(fourier(images), direct(images)) < 1e-5


def test_other_sizes_go_the_ordinary_way() -> None:
    layer = nn.Conv2d(3, 4, 5, padding=2)
    for shape in ((2, 3, 12, 12), (2, 3, 14, 28)):
        x = torch.randn(shape)
        expected = layer(x)
        fourier = nn.Sequential(copy.deepcopy(layer))
        through_frequency(fourier)
        assert torch.equal(fourier(x), expected)
    others = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 5), nn.MaxPool2d(3, stride=2))
    through_frequency(others)
    assert [type(layer) for layer in others] == [nn.Conv2d, nn.Conv2d, nn.MaxPool2d]


def test_which_form_runs_follows_a_rule() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_convolutions("auto", cpu, "off") == ("fourier", "faster on CPUs")
    assert choose_convolutions("auto", cpu, "on")[0] == "direct"
    assert choose_convolutions("auto", gpu, "off")[0] == "direct"
    assert choose_convolutions("direct", cpu, "off") == ("direct", "as asked for")
    for device, compile in ((gpu, "off"), (cpu, "on")):
        with pytest.raises(UserError, match="--convolutions fourier"):
            choose_convolutions("fourier", device, compile)


def test_pooling_first_changes_nothing_but_the_work() -> None:
    """PReLU runs after the pooling if its slope is above 0, otherwise before it."""
    images = torch.randn(8, 1, 28, 28)
    for slope in (0.25, 0.0, -0.1):
        plain, fast = LeNetPP(), LeNetPP()
        fast.load_state_dict(plain.state_dict())
        through_frequency(fast)
        found = []
        for model in (plain, fast):
            for layer in model.modules():
                if isinstance(layer, torch.nn.PReLU):
                    torch.nn.init.constant_(layer.weight, slope)
            features = model(images)
            features.square().sum().backward()
            found.append([features.detach(), *(parameter.grad for parameter in model.parameters())])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))

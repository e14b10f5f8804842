"""LeNet++ and the softmax head: shapes, size, and where they start."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models
from models import LeNetPP, SoftmaxHead, spread_directions
from models.prelu import PReLU


@pytest.mark.parametrize("feat_dim", [1, 2, 64])
@pytest.mark.parametrize("overlapping_pool", [False, True])
def test_features_have_the_asked_dimension(feat_dim: int, overlapping_pool: bool) -> None:
    model = models.create("cnn", feat_dim=feat_dim, overlapping_pool=overlapping_pool)
    assert model(torch.randn(3, 1, 28, 28)).shape == (3, feat_dim)


def test_multiply_adds_and_parameters() -> None:
    """80.9 M multiply-adds an image; the layers are the paper's."""
    model = LeNetPP()
    total, size = 0, 28
    for layer in model.stages:
        if isinstance(layer, nn.Conv2d):
            total += size**2 * layer.weight.numel()
        elif isinstance(layer, nn.MaxPool2d):
            size //= 2
    assert round((total + model.fc.weight.numel()) / 1e6, 1) == 80.9
    assert [layer.out_channels for layer in model.stages if isinstance(layer, nn.Conv2d)] == [32, 32, 64, 64, 128, 128]


def test_features_stay_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert LeNetPP()(torch.randn(2, 1, 28, 28)).dtype == torch.float32


def test_caffe_xavier_is_uniform_over_the_fan_in() -> None:
    weight = LeNetPP(init="xavier").stages[2].weight
    assert weight.abs().max() <= (3 / (32 * 25)) ** 0.5
    assert weight.std().item() == pytest.approx((1 / (32 * 25)) ** 0.5, rel=0.05)


def test_directions_point_apart() -> None:
    angles = torch.atan2(*spread_directions(10, 2).T.flip(0)).rad2deg() % 360
    torch.testing.assert_close(angles, torch.arange(10) * 36.0, atol=1e-3, rtol=0)
    orthogonal = spread_directions(10, 64)
    torch.testing.assert_close(orthogonal @ orthogonal.T, torch.eye(10), atol=1e-5, rtol=0)
    assert spread_directions(3, 1).tolist() == [[1.0], [-1.0], [1.0]]
    assert spread_directions(10, 3).shape == (10, 3)


def test_softmax_head_is_linear_and_ignores_labels() -> None:
    head = SoftmaxHead(2, 10, bias=True, init="torch")
    features = torch.randn(4, 2)
    assert torch.equal(head(features, torch.arange(4)), nn.functional.linear(features, head.weight, head.bias))
    assert SoftmaxHead(2, 10).bias is None
    torch.testing.assert_close(SoftmaxHead(2, 10).weight.norm(dim=1), torch.full((10,), 5.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.create("resnet"), "model must be one of lenet.*got 'resnet'"),
        (lambda: LeNetPP(0), "feat_dim must be at least 1; got 0"),
        (lambda: LeNetPP(init="zeros"), "init must be .* got 'zeros'"),
        (lambda: SoftmaxHead(2, 10, init="zeros"), "init must be .* got 'zeros'"),
    ],
)
def test_bad_arguments(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("slope", [0.25, -0.3])
def test_fast_prelu_is_prelu(slope: float, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """The same values and gradients; also under autocast, as in a bf16 run, and at 0."""
    x, dy = (torch.randn(6, 8, 5, 5).to(dtype, memory_format=layout) for _ in range(2))
    x[0, 0] = 0
    results = []
    for prelu in (nn.PReLU(init=slope), PReLU(init=slope)):
        leaf = x.clone().requires_grad_()
        prelu.to(torch.promote_types(dtype, torch.float32))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = prelu(leaf)
        y.backward(dy)
        assert prelu.weight.grad is not None
        results.append((y, leaf.grad, prelu.weight.grad))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_model_loads_weights_of_plain_prelu() -> None:
    model = LeNetPP(feature_prelu=True)
    names = {name for name, layer in model.named_modules() if isinstance(layer, nn.PReLU)}
    assert len(names) == 7
    assert {f"{name}.weight" for name in names} <= model.state_dict().keys()

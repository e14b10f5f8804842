"""LeNet++ and the softmax head: shapes, size and initialization."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.lenet_pp import LeNetPP, SoftmaxHead, spread_directions


@pytest.mark.parametrize("feat_dim", [1, 2, 64])
@pytest.mark.parametrize("overlapping_pool", [False, True])
def test_features_have_the_asked_dimension(feat_dim: int, overlapping_pool: bool) -> None:
    model = LeNetPP(feat_dim=feat_dim, overlapping_pool=overlapping_pool)
    assert model(torch.randn(3, 1, 28, 28)).shape == (3, feat_dim)


def test_multiply_adds_and_parameters() -> None:
    """80.9 M multiply-adds per image; the layers are the paper's."""
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
        (lambda: LeNetPP(0), "feat_dim must be at least 1; got 0"),
        (lambda: LeNetPP(init="zeros"), "init must be .* got 'zeros'"),
        (lambda: SoftmaxHead(2, 10, init="zeros"), "init must be .* got 'zeros'"),
    ],
)
def test_bad_arguments(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""ArcFace and CosFace against their equations, worked sample by sample."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from margin_heads import ArcFace, CosFace, MarginHead


@pytest.fixture(params=[ArcFace, CosFace])
def kind(request: pytest.FixtureRequest) -> type[MarginHead]:
    return request.param


def by_hand(head: MarginHead, x: list[float], y: int) -> list[float]:
    """One sample's logits from angles; the length is sqrt(|x|² + 1e-6), as documented."""
    logits = []
    length = math.sqrt(sum(a * a for a in x) + 1e-6)
    for j, w in enumerate(head.weight.tolist()):
        cosine = sum(a * b for a, b in zip(x, w, strict=True)) / length / math.sqrt(sum(b * b for b in w))
        angle = math.acos(max(-1.0, min(1.0, cosine)))
        if j == y and isinstance(head, CosFace):
            cosine -= head.m
        elif j == y and angle < math.pi - head.m:
            cosine = math.cos(angle + head.m)
        elif j == y:
            cosine -= head.m * math.sin(head.m)
        logits.append(head.s * cosine)
    return logits


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from([ArcFace, CosFace]),
    n=st.integers(0, 8),
    dim=st.integers(1, 6),
    classes=st.integers(2, 7),
    m=st.floats(0, 1.5),
    s=st.floats(0.5, 64),
    seed=st.integers(0, 1000),
)
def test_logits_are_the_equations(kind, n: int, dim: int, classes: int, m: float, s: float, seed: int) -> None:
    torch.manual_seed(seed)
    head = kind(dim, classes, s=s, m=m).double()
    features, labels = torch.randn(n, dim, dtype=torch.float64), torch.randint(0, classes, (n,))
    logits = head(features, labels)
    expected = [by_hand(head, x, y) for x, y in zip(features.tolist(), labels.tolist(), strict=True)]
    assert logits.shape == (n, classes)
    # acos loses half the digits at ±1, and in one dimension every cosine is ±1
    torch.testing.assert_close(logits.tolist(), expected, rtol=1e-4, atol=1e-3 * s)
    without_labels = [by_hand(head, x, -1) for x in features.tolist()]
    torch.testing.assert_close(head(features).tolist(), without_labels)


def test_gradcheck(kind) -> None:
    head = kind(3, 4, s=5.0, m=0.3).double()
    features = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.autograd.gradcheck(lambda x: head(x, labels), features)


def test_known_angles() -> None:
    head = ArcFace(2, 2, s=1.0, m=0.5)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    sixty = torch.tensor([[1000 * math.cos(math.pi / 3), 1000 * math.sin(math.pi / 3)]])
    expected = torch.tensor([[math.cos(math.pi / 3 + 0.5), math.sin(math.pi / 3)]])
    torch.testing.assert_close(head(sixty, torch.tensor([0])), expected)
    cosface = CosFace(2, 2, s=2.0, m=0.1)
    cosface.weight = head.weight
    expected = torch.tensor([[2 * (0.5 - 0.1), 2 * math.sin(math.pi / 3)]])
    torch.testing.assert_close(cosface(sixty, torch.tensor([0])), expected)


@pytest.mark.parametrize("m", [0.0, 0.2, 0.5, 1.0, math.pi / 2])
def test_arcface_target_falls_over_the_whole_range(m: float) -> None:
    angle = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    target = ArcFace(2, 10, m=m).with_margin(angle.cos())
    assert (target.diff() < 1e-6).all()


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-6, 1e-3, 1.0, 1e3, 1e18])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_are_finite_and_bounded(kind, length: float, sign: float) -> None:
    """At cos θ = ±1 exactly, close to it, and for zero features."""
    head = kind(2, 10, s=30.0)
    direction = F.normalize(head.weight[:1].detach())
    near = direction + 1e-4 * torch.randn(50, 2)
    features = (sign * length * torch.cat([direction, near])).requires_grad_()
    labels = torch.zeros(51, dtype=torch.long)
    F.cross_entropy(head(features, labels), labels, reduction="sum").backward()
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(head.weight.grad).all()
    assert features.grad.norm(dim=1).max() <= 1e4 * head.s


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_inside_autocast(kind, dtype: torch.dtype) -> None:
    head = kind(2, 10)
    features, labels = torch.randn(6, 2).to(dtype), torch.arange(6)
    with torch.autocast("cpu", dtype):
        logits = head(features, labels)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, head(features.float(), labels))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArcFace(m=-0.1), r"m must lie in \[0, pi/2\] radians; got -0.1"),
        (lambda: ArcFace(m=2.0), "got 2.0"),
        (lambda: ArcFace(m=float("nan")), "got nan"),
        (lambda: CosFace(m=2.0), r"m must lie in \[0, 2\); got 2.0"),
        (lambda: CosFace(s=0.0), "s must be finite and positive; got 0.0"),
        (lambda: ArcFace(s=float("inf")), "s must be finite and positive; got inf"),
        (lambda: ArcFace(num_classes=1), "num_classes at least 2; got 2 and 1"),
        (lambda: ArcFace()(torch.randn(3, 5)), r"features must have shape \(B, 2\); got \(3, 5\)"),
        (lambda: ArcFace()(torch.randn(3, 2), torch.arange(4)), r"labels must have shape \(3,\); got \(4,\)"),
        (lambda: ArcFace()(torch.ones(3, 2).long()), "features must be floating point; got torch.int64"),
        (lambda: ArcFace()(torch.randn(3, 2), torch.ones(3)), r"labels must be integers.*got torch\.float32"),
        (lambda: CosFace()(torch.randn(3, 2), torch.ones(3) > 0), r"labels must be integers.*got torch\.bool"),
        (lambda: CosFace()(torch.randn(3, 2), torch.ones(3).to(torch.uint64)), r"int8 or uint8\); got torch\.uint64"),
        (lambda: CosFace()(torch.randn(3, 2), [0, 1, 2]), "labels must be a tensor; got list: torch.as_tensor"),
        (lambda: CosFace()(torch.randn(3, 2).numpy()), "features must be a tensor; got ndarray"),
        (lambda: ArcFace()(torch.randn(3, 2), torch.ones(3, device="meta").long()), "labels .* meta and cpu: move"),
        (
            lambda: CosFace()(torch.randn(2, 2), torch.tensor([0, 10])),
            r"labels must lie in \[0, 10\): index 10 is out of bounds",
        ),
        (
            lambda: ArcFace()(torch.randn(2, 2), torch.tensor([-1, 3])),
            r"labels must lie in \[0, 10\): index -1 is out of bounds",
        ),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_it_can_be_traced_and_a_weight_of_zero_has_a_finite_slope(kind) -> None:
    head, labels = kind(3, 4), torch.arange(4)
    with torch.no_grad():
        head.weight[0] = 0
    traced = make_fx(head)(torch.randn(4, 3), labels)
    features = torch.randn(4, 3)
    torch.testing.assert_close(traced(features, labels), head(features, labels))
    head(features).sum().backward()
    assert head.weight.grad.abs().max() < 1e6


def test_features_whose_squares_leave_float32(kind) -> None:
    head, labels = kind(), torch.tensor([1, 2, 3])
    direction = torch.randn(3, 2)
    features = (1e25 * direction).requires_grad_()
    logits = head(features, labels)
    torch.testing.assert_close(logits, head(1e6 * direction, labels))
    F.cross_entropy(logits, labels).backward()
    assert features.grad.isfinite().all()


def test_gradients_of_each_sample(kind) -> None:
    head, features, labels = kind(), torch.randn(5, 2), torch.tensor([0, 3, 9, 3, 1])

    def loss(feature: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(head(feature[None], label[None]), label[None])

    found = torch.func.vmap(torch.func.grad(loss))(features, labels)
    for one, feature, label in zip(found, features, labels, strict=True):
        torch.testing.assert_close(one, torch.func.grad(loss)(feature, label))


def test_without_contents_on_the_meta_device(kind) -> None:
    head, features = kind().to("meta"), torch.randn(4, 2, device="meta", requires_grad=True)
    head(features, torch.zeros(4, dtype=torch.int64, device="meta")).sum().backward()
    assert features.grad.shape == (4, 2)

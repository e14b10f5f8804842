"""CenterLoss against the equations, worked sample by sample."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from center_loss import CenterLoss


@pytest.fixture(params=["gradient", "paper"])
def update(request: pytest.FixtureRequest) -> str:
    return request.param


def random_batch(n: int = 16, classes: int = 5, dim: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, dim, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return features, labels


def by_hand(features: Tensor, labels: Tensor, centers: Tensor, half: bool, reduction: str) -> float:
    """Eq. 2, one sample after the other."""
    pairs = zip(features.tolist(), labels.tolist(), strict=True)
    total = sum((a - b) ** 2 for x, y in pairs for a, b in zip(x, centers[y].tolist(), strict=True))
    return (0.5 if half else 1.0) * total / (max(len(labels), 1) if reduction == "mean" else 1)


def equation_4(features: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Δc of eq. 4, one class after the other."""
    delta = torch.zeros_like(centers)
    for j in range(len(centers)):
        own = [x for x, y in zip(features, labels.tolist(), strict=True) if y == j]
        delta[j] = sum(((centers[j] - x) for x in own), torch.zeros_like(centers[j])) / (1 + len(own))
    return delta


def called(loss: CenterLoss, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the value and the gradients of features and centers."""
    x = features.clone().requires_grad_()
    loss.centers.grad = None
    value = loss(x, labels)
    value.backward()
    return value.detach(), x.grad, loss.centers.grad


def stepped(loss: CenterLoss, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centers before and after a step at the rate 0.5."""
    before = loss.centers.detach().clone()
    called(loss, features, labels)
    torch.optim.SGD(loss.parameters(), lr=0.5).step()
    return before, loss.centers.detach()


@pytest.mark.parametrize("half", [None, True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_value_is_equation_2(update: str, half: bool | None, reduction: str, weight: float) -> None:
    features, labels = random_batch()
    loss = CenterLoss(5, 3, update=update, half=half, reduction=reduction, weight=weight).double()
    assert loss.last_value.isnan()  # before the first call
    value = loss(features, labels)
    expected = by_hand(features, labels, loss.centers.detach(), update == "paper" if half is None else half, reduction)
    assert value.shape == ()
    assert value.item() == pytest.approx(weight * expected, rel=1e-12)
    assert loss.last_value.item() == pytest.approx(expected, rel=1e-12)
    assert not loss.last_value.requires_grad


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(0, 12),
    classes=st.integers(1, 7),
    dim=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    update=st.sampled_from(["gradient", "paper"]),
    trailing=st.booleans(),
    label_dtype=st.sampled_from([torch.int64, torch.int32, torch.uint8]),
)
def test_any_shape(
    n: int, classes: int, dim: int, seed: int, update: str, trailing: bool, label_dtype: torch.dtype
) -> None:
    features, labels = random_batch(n, classes, dim, seed=seed)
    loss = CenterLoss(classes, dim, update=update).double()
    given_features = features[:, :, None, None] if trailing else features
    value, _, moved = called(loss, given_features, labels.to(label_dtype))
    expected = by_hand(features, labels, loss.centers.detach(), update == "paper", "mean")
    assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert moved.shape == (classes, dim)
    assert not moved[labels.bincount(minlength=classes) == 0].any()


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_gradcheck_features(update: str, weight: float) -> None:
    features, labels = random_batch()
    loss = CenterLoss(5, 3, update=update, weight=weight).double()
    loss.centers.requires_grad_(False)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), features.requires_grad_())


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("n", [1, 7, 128])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_paper_step_is_equation_4(sparse: bool, weight: float, n: int, reduction: str) -> None:
    features, labels = random_batch(n, dtype=torch.float32)
    loss = CenterLoss(5, 3, update="paper", weight=weight, sparse=sparse, reduction=reduction)
    before, after = stepped(loss, features, labels)
    assert loss.centers.grad.is_sparse == sparse
    torch.testing.assert_close(after, before - 0.5 * equation_4(features, labels, before))


def test_equation_4_worked_by_hand() -> None:
    # Two samples of class 0 at 1 and 4, center 0 at 0: Δc = ((0 - 1) + (0 - 4)) / (1 + 2) = -5/3.
    # One sample of class 1 at 2, center 1 at 10: Δc = (10 - 2) / (1 + 1) = 4. Class 2 is absent.
    loss = CenterLoss(3, 1, update="paper", init=torch.tensor([[0.0], [10.0], [7.0]]))
    loss(torch.tensor([[1.0], [4.0], [2.0]]), torch.tensor([0, 0, 1])).backward()
    torch.testing.assert_close(loss.centers.grad, torch.tensor([[-5 / 3], [4.0], [0.0]]))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_gradient_mode_moves_centers_by_2n_over_b(sparse: bool, weight: float) -> None:
    features, labels = random_batch(64, dtype=torch.float32)
    loss = CenterLoss(5, 3, weight=weight, sparse=sparse)
    before, after = stepped(loss, features, labels)
    for j in range(5):
        own = features[labels == j]
        torch.testing.assert_close(after[j], before[j] + 0.5 * 2 * len(own) / 64 * (own.mean(dim=0) - before[j]))


def test_single_optimizer_with_rescaled_gradient(update: str) -> None:
    """The published second usage: λ outside, then the centers' gradient divided by λ."""
    features, labels = random_batch(dtype=torch.float32)
    loss = CenterLoss(5, 3, update=update)
    (0.01 * loss(features, labels)).backward()
    for parameter in loss.parameters():
        parameter.grad.data *= 1 / 0.01
    torch.testing.assert_close(loss.centers.grad, called(loss, features, labels)[2])


@pytest.mark.filterwarnings("ignore:.*no CUDA device")
def test_widely_copied_constructor() -> None:
    loss = CenterLoss(10, 2, True)
    assert isinstance(loss.centers, torch.nn.Parameter)
    assert loss.centers.shape == (10, 2)
    assert list(loss.state_dict()) == ["centers"]
    assert CenterLoss(num_classes=10, feat_dim=2, use_gpu=False).centers.device.type == "cpu"
    if not torch.cuda.is_available():
        with pytest.warns(UserWarning, match="no CUDA device"):
            CenterLoss(use_gpu=True)


def test_widely_copied_update() -> None:
    """The same gradients come from its full distance matrix and mask."""
    features, labels = random_batch(32, dtype=torch.float64)
    loss = CenterLoss(5, 3).double()
    x = features.clone().requires_grad_()
    c = loss.centers.detach().clone().requires_grad_()
    mask = labels[:, None] == torch.arange(5)
    ((torch.cdist(x, c) ** 2) * mask).sum().div(32).backward()
    torch.testing.assert_close(called(loss, features, labels)[1:], (x.grad, c.grad))


def test_inits() -> None:
    numbers = np.int64(4), np.int32(3)  # NumPy's whole numbers are legal
    assert torch.equal(CenterLoss(*numbers, init="zeros").centers, torch.zeros(4, 3))
    circle = CenterLoss(4, 3, init="circle", radius=5.0).centers
    torch.testing.assert_close(circle.norm(dim=1), torch.full((4,), 5.0))
    torch.testing.assert_close(circle[1], torch.tensor([0.0, 5.0, 0.0]), atol=1e-6, rtol=0)
    given_centers = torch.arange(12.0).reshape(4, 3)
    assert torch.equal(CenterLoss(4, 3, init=given_centers.numpy()).centers, given_centers)
    centers = CenterLoss(4, 3, init=given_centers).centers
    assert torch.equal(centers, given_centers)
    assert centers.data_ptr() != given_centers.data_ptr()
    assert 0.8 < CenterLoss(1000, 3).centers.std() < 1.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_float32(update: str, dtype: torch.dtype) -> None:
    features, labels = random_batch(dtype=torch.float32)
    loss = CenterLoss(5, 3, update=update)
    before, x = loss.centers.detach().clone(), features.to(dtype).requires_grad_()
    plain = loss(x.detach().float(), labels)
    with torch.autocast("cpu", dtype):
        value = loss(x, labels)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(value).backward()
    assert value.dtype == loss.centers.dtype == loss.centers.grad.dtype == torch.float32
    assert x.grad.dtype == dtype
    torch.testing.assert_close(value, plain)
    scaler.step(torch.optim.SGD(loss.parameters(), lr=0.5))
    if update == "paper":
        expected = before - 0.5 * equation_4(x.detach().float(), labels, before)
        torch.testing.assert_close(loss.centers.detach(), expected)


@pytest.mark.parametrize("weight", [1.0, 0.1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_compiles_to_one_graph(update: str, weight: float) -> None:
    features, labels = random_batch(dtype=torch.float32)
    loss = CenterLoss(5, 3, update=update, weight=weight)
    eager, before = called(loss, features, labels), loss.last_value
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(called(compiled, features, labels), eager)
    assert loss.last_value is not before
    torch.testing.assert_close(loss.last_value, before)
    with pytest.raises((RuntimeError, IndexError), match=r"labels must lie in \[0, 5\)|out of"):
        compiled(features, labels + 5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_last_value_outlives_a_transform() -> None:
    loss, labels = CenterLoss(10, 2), torch.arange(4)
    before = loss(torch.zeros(4, 2), labels).item()

    def of_one(feature: Tensor, label: Tensor) -> Tensor:
        return loss(feature[None], label[None])

    def slope(features: Tensor) -> Tensor:
        return torch.func.grad(lambda x: loss(x, labels))(features)

    torch.func.vmap(torch.func.grad(of_one))(torch.randn(4, 2), labels)
    features = torch.randn(4, 2)
    torch.testing.assert_close(torch.compile(slope)(features), slope(features))
    torch.export.export(loss, (features, labels)).module()(features, labels)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\)$"):
        torch.func.vmap(of_one)(features, labels + 8)
    assert float(loss.last_value) == pytest.approx(before)


def test_pickle_and_half_method() -> None:
    loss = pickle.loads(pickle.dumps(CenterLoss(3, 2, update="paper")))
    assert "update='paper'" in repr(loss)
    features, labels = random_batch(4, 3, 2, torch.float16)
    assert loss.half()(features, labels).dtype == torch.float32


BAD_ARGUMENTS = [
    (dict(num_classes=0), "at least 1; got 0"),
    (dict(feat_dim=0), "at least 1"),
    (dict(update="caffe"), "update must be .* got 'caffe'"),
    (dict(reduction="none"), "reduction must be .* got 'none'"),
    (dict(num_classes=2.5), "num_classes must be a whole number of at least 1; got 2.5"),
    (dict(feat_dim=True), "feat_dim must be a whole number of at least 1; got True"),
    (dict(ignore_index="x"), "ignore_index must be a whole number; got 'x'"),
    (dict(half="yes"), "half must be True, False or None; got 'yes'"),
    (dict(weight=-1.0), "weight must be finite and at least 0; got -1"),
    (dict(weight=float("nan")), "weight must be finite"),
    (dict(init="ones"), "init must be .* got 'ones'"),
    (dict(init=torch.full((10, 2), float("nan"))), "init must be finite"),
    (dict(init="circle", radius=float("inf")), "radius must be finite; got inf"),
    (dict(init=torch.zeros(3, 3)), r"init must have shape .*\(10, 2\); got \(3, 3\)"),
    (dict(feat_dim=1, init="circle"), "needs feat_dim of at least 2; got 1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CenterLoss(**arguments)


X, Y = torch.randn(4, 2), torch.tensor([0, 1, 2, 9])
BAD_CALLS = [
    (X, torch.tensor([0, 1, 2, 12]), r"labels must lie in \[0, 10\); got 12"),
    (X, torch.tensor([0, 1, 2, -3]), r"labels must lie in \[0, 10\); got -3"),
    (X, Y.float(), r"labels must be integers.*got torch\.float32"),
    (X, Y > 0, r"labels must be integers.*got torch\.bool"),
    (X, Y[:3], r"labels must have shape \(B,\) = \(4,\); got \(3,\)"),
    (X, Y[:, None], r"got \(4, 1\)"),
    (X.long(), Y, "features must be floating point; got torch.int64"),
    (Y, X, r"features must be floating point.*order is center_loss\(features, labels\)"),
    (torch.randn(4, 3), Y, "feat_dim=2 columns; got 3"),
    (torch.randn(4, 2, 2, 2), Y, r"shape \(B, D\) or \(B, D, 1, 1\); got \(4, 2, 2, 2\)"),
    (torch.randn(2), Y[:2], r"got \(2,\)"),
    (X, Y.to(torch.uint16), r"labels must be integers \(int64, int32, int16, int8 or uint8\); got torch\.uint16"),
    (X, [0, 1, 2, 9], "labels must be a tensor; got list: torch.as_tensor makes one"),
    (X, Y.numpy(), "labels must be a tensor; got ndarray"),
    (X.numpy(), Y, "features must be a tensor; got ndarray"),
    (X.to("meta"), Y, r"on one device; got meta, cpu and cpu: .*center_loss\.to\(device\)"),
]


@pytest.mark.parametrize(("features", "labels", "message"), BAD_CALLS)
def test_bad_calls(features: Tensor, labels: Tensor, message: str, update: str) -> None:
    with pytest.raises(ValueError, match=message):
        CenterLoss(update=update)(features, labels)


@pytest.mark.cuda
def test_cuda_reads_nothing_back() -> None:
    features, labels = (t.cuda() for t in random_batch(dtype=torch.float32))
    loss = CenterLoss(5, 3, use_gpu=True, update="paper")
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(features.requires_grad_(), labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_without_weight_features_feel_nothing_however_long_they_are(update: str) -> None:
    value, felt, _ = called(CenterLoss(update=update, weight=0.0), torch.full((4, 2), 1e25), torch.arange(4))
    assert value == 0
    assert torch.equal(felt, torch.zeros(4, 2))


@pytest.mark.parametrize("labels", [[0, 3, -100, 3, 0, -100, 9, 5], [-100] * 8], ids=["some", "all"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_ignored_samples_count_for_nothing(update: str, weight: float, sparse: bool, labels: list[int]) -> None:
    settings = dict(update=update, weight=weight, sparse=sparse, init=torch.randn(10, 2))
    features, labels = torch.randn(8, 2), torch.tensor(labels)
    kept = labels != -100
    loss, without = CenterLoss(10, 2, ignore_index=-100, **settings), CenterLoss(10, 2, **settings)
    value, felt, moved = called(loss, features, labels)
    wanted, wanted_felt, wanted_moved = called(without, features[kept], labels[kept])
    torch.testing.assert_close((value, loss.last_value), (wanted, without.last_value))
    torch.testing.assert_close((felt[kept], moved.to_dense()), (wanted_felt, wanted_moved.to_dense()))
    assert not felt[~kept].any()


def test_ignored_samples_move_no_center_under_sparse_adam() -> None:
    """It moves every class that has a row in the gradient, be it 0."""
    loss = CenterLoss(3, 2, sparse=True, ignore_index=-100, init="zeros")
    optimizer = torch.optim.SparseAdam(loss.parameters(), lr=0.1)
    for labels in ([0, 1], [1, -100]):
        optimizer.zero_grad()
        before = loss.centers.detach().clone()
        loss(torch.ones(2, 2), torch.tensor(labels)).backward()
        optimizer.step()
    assert torch.equal(loss.centers[0], before[0])


def test_a_label_out_of_range_is_no_ignored_one() -> None:
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\); got 10$"):
        CenterLoss(10, 2, ignore_index=-100)(torch.randn(1, 2), torch.tensor([10]))
    with pytest.raises(ValueError, match="got -100; ignore_index=-100 leaves such samples out"):
        CenterLoss(10, 2)(torch.randn(1, 2), torch.tensor([-100]))


def test_features_that_are_too_large_give_infinity(update: str) -> None:
    loss = CenterLoss(2, 2, update=update, weight=0.5, init="zeros")
    value, _, moved = called(loss, torch.full((3, 2), 3e38), torch.tensor([0, 1, 1]))
    assert value.item() == math.inf
    assert not moved.isnan().any()


@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_without_contents_on_the_meta_device(update: str, weight: float) -> None:
    loss = CenterLoss(5, 3, update=update, weight=weight).to("meta")
    found = called(loss, torch.randn(4, 3, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta"))
    assert [tensor.shape for tensor in found] == [(), (4, 3), (5, 3)]

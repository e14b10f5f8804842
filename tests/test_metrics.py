"""Every number for points worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from analysis import metrics, unseen

# Two classes, two points each: means (0, 1) and (4, 1), every point 1 from its own mean.
FEATURES = np.array([[0.0, 0], [0, 2], [4, 0], [4, 2]])
LABELS = np.array([0, 0, 1, 1])
MOVES = np.array([[0, 1], [0, 1], [0, 3], [0, 3]])


def test_class_means() -> None:
    assert metrics.class_means(FEATURES, LABELS).tolist() == [[0, 1], [4, 1]]
    with pytest.raises(ValueError, match="class 1 has none"):
        metrics.class_means(FEATURES, LABELS * 2)


@pytest.mark.parametrize(
    ("metric", "arrays", "by_hand"),
    [
        (metrics.compactness, (FEATURES, LABELS), 1 / 4),
        (metrics.compactness, (7 * FEATURES, LABELS), 1 / 4),  # scale does not matter
        (metrics.compactness, (FEATURES, np.array([0, 1, 1, 0])), np.inf),  # the means coincide
        # Between: 4 samples, each class mean 2 from the mean: 16. Within: each sample 1 from its mean: 4.
        (metrics.fisher_ratio, (FEATURES, LABELS), 16 / 4),
        # a = 2, b = (4 + √20) / 2, the same for every point: (b - a) / b.
        (metrics.silhouette, (FEATURES, LABELS), 1 - 2 / (2 + np.sqrt(5))),
        (metrics.nearest_center_accuracy, (FEATURES, LABELS, np.array([[0.0, 1], [4, 1]])), 100),
        (metrics.nearest_center_accuracy, (FEATURES, LABELS, np.array([[0.0, 1], [0, 3]])), 50),  # (4, 2) is between
        (metrics.drift, (FEATURES, LABELS, FEATURES + MOVES, LABELS), (1 + 3) / 2 / 4),
        # Both classes have a spread of 1; the centers lie 0.5 and 2 from their means.
        (metrics.center_gap, (FEATURES, LABELS, np.array([[0.0, 1.5], [6, 1]])), 2),
    ],
)
def test_numbers(metric: Callable[..., float], arrays: tuple[np.ndarray, ...], by_hand: float) -> None:
    assert metric(*arrays) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("genuine", "scores", "by_hand"),
    [
        # From above: TAR 1/4, 2/4, 3/4 at FAR 0; then FAR 1/4 with a rejection rate of 1/4.
        ([1, 1, 1, 1, 0, 0, 0, 0], [8, 7, 6, 3, 5, 4, 2, 1], {"EER": 25, "TAR@1e-2": 75, "TAR@1e-3": 75}),
        # Rejection falls from 1/2 to 0 while FAR rises from 0 to 1: they meet at 1/3.
        ([1, 1, 0, 0], [9, 5, 5, 5], {"EER": 100 / 3}),
        ([1, 1, 0, 0], [4, 3, 2, 1], {"EER": 0}),
        ([1, 1, 0, 0], [1, 2, 3, 4], {"EER": 100}),
        # 1,000 impostors: one above the third genuine pair, ten above the last.
        ([1] * 4 + [0] * 1_000, [10, 10, 8, 1, 9] + [7] * 9 + [0] * 990, {"TAR@1e-2": 100, "TAR@1e-3": 75}),
        # Twelve above the third pair: more than either limit allows.
        ([1] * 4 + [0] * 1_000, [10, 10, 8, 1] + [9] * 12 + [0] * 988, {"TAR@1e-2": 50}),
    ],
    ids=["between two thresholds", "ties", "perfect", "inverted", "limits", "beyond the limits"],
)
def test_equal_error_and_acceptance(genuine: list[int], scores: list[int], by_hand: dict[str, float]) -> None:
    found = metrics.equal_error_and_acceptance(np.array(genuine, bool), np.array(scores, float))
    assert {name: found[name] for name in by_hand} == pytest.approx(by_hand)


def test_a_test_set_that_lacks_a_class_is_named() -> None:
    train, labels = np.array([[0.0, 0], [1, 1], [2, 0]]), np.array([0, 1, 2])
    with pytest.raises(ValueError, match="class 2 has none"):
        metrics.drift(train, labels, train[:2], labels[:2])


def test_verification_of_many_samples_is_a_fixed_part_of_them() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, 5_000)
    features = rng.normal(size=(5_000, 2)) + 3 * labels[:, None]
    once, again = (metrics.verification(features, labels) for _ in range(2))
    assert once == again
    assert 2 < once["EER"] < 40


def test_known_scores() -> None:
    logits = np.array([[2.0, 1, 0], [900, 0, 0], [901, 0, 0]])
    features = np.array([[0.0, 0], [3, 4], [0, 1]])
    scores = metrics.known_scores(features, logits, np.array([[0.0, 0], [0, 5]]), np.array([[3.0, 0], [0, 1]]))
    p = np.exp(2) / (np.exp(2) + np.exp(1) + 1)
    assert scores["softmax probability"][0] == pytest.approx(np.log(p / (1 - p)))
    assert scores["softmax probability"][2] > scores["softmax probability"][1]  # both are 1 in float64
    assert scores["max logit"].tolist() == [2, 900, 901]
    assert scores["center distance"] == pytest.approx([0, -np.sqrt(10), -1])
    assert scores["class mean distance"] == pytest.approx([-1, -4, 0])


def test_open_set_perfect_and_worthless() -> None:
    known, unknown = np.array([3.0, 4, 5, 6]), np.array([0.0, 1])
    found = metrics.open_set(known, np.array([True, True, True, False]), unknown)
    assert found == pytest.approx({"AUROC": 100, "AUPR": 100, "FPR95": 0, "OSCR": 75})
    same = metrics.open_set(np.zeros(4), np.ones(4, bool), np.zeros(2))
    assert same == pytest.approx({"AUROC": 50, "AUPR": 100 * 4 / 6, "FPR95": 100, "OSCR": 50})


def test_open_set_by_hand() -> None:
    # In falling order: known 9 (right), unknown 8, known 7 (wrong), known 6 (right), unknown 5.
    found = metrics.open_set(np.array([9.0, 7, 6]), np.array([True, False, True]), np.array([8.0, 5]))
    assert found["AUROC"] == pytest.approx(100 * (2 + 1 + 1) / 6)  # 9 beats 8 and 5; 7 and 6 beat 5
    assert found["AUPR"] == pytest.approx(100 * (1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert found["FPR95"] == pytest.approx(50)
    # Right and passing: 1/3 from FPR 0 to 1/2, then 2/3 until 1.
    assert found["OSCR"] == pytest.approx(100 * (1 / 3 * 1 / 2 + 2 / 3 * 1 / 2))


def test_summary_has_every_number_and_refuses_what_is_not_finite() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    centers = np.array([[0.0, 0], [9, 0], [0, 9]])
    features = (centers[labels] + rng.normal(size=(300, 2))).astype(np.float16)
    sets = {f"{part}_{name}": labels for part in ("train", "test") for name in ("labels", "predictions")}
    arrays = sets | {"train_features": features, "test_features": features, "centers": centers}
    found = metrics.summary(arrays)
    assert found.keys() == metrics.METRICS.keys()
    assert found["drift"] == 0
    assert found["nearest-center accuracy"] > 99
    features[7, 1] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        metrics.summary(arrays)
    with pytest.raises(ValueError, match="not finite"):
        metrics.summary(arrays | {"test_features": arrays["train_features"][:0], "centers": centers * np.nan})


@pytest.mark.parametrize(("classes", "limit"), [(10, 55.0), (6, 58.3), (2, 75.0)])
def test_a_run_has_collapsed_where_it_is_nearer_to_chance(classes: int, limit: float) -> None:
    assert metrics.has_collapsed(limit - 0.1, classes)
    assert not metrics.has_collapsed(limit + 0.1, classes)


def spots(classes: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features around a center for each class, in three dimensions, and their labels, shuffled."""
    rng = np.random.default_rng(classes)
    labels = rng.permutation(np.repeat(np.arange(classes) + 4, each))
    return rng.normal(size=(classes + 4, 3))[labels] + 0.5 * rng.normal(size=(len(labels), 3)), labels


@pytest.mark.parametrize("gallery", [1, 3])
def test_rank_one_by_a_slow_loop(gallery: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unseen, "DRAWS", 7)
    features, labels = spots(4, 12)
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(unseen.DRAWS):
        known = []
        for label in sorted(set(labels.tolist())):
            known += rng.choice([i for i in range(len(labels)) if labels[i] == label], gallery, replace=False).tolist()
        right = []
        for i in range(len(labels)):
            if i not in known:
                distances = [float(np.sum((features[i] - features[j]) ** 2)) for j in known]
                right.append(labels[known[distances.index(min(distances))]] == labels[i])
        rates.append(100 * sum(right) / len(right))
    assert 40 < np.mean(rates) < 100
    assert unseen.rank_one(features, labels, gallery) == pytest.approx(np.mean(rates))


def test_a_gallery_leaves_images_to_look_up() -> None:
    features, labels = spots(2, 3)
    with pytest.raises(ValueError, match="a gallery of 3 needs more images of each class; one has 3"):
        unseen.rank_one(features, labels, 3)


def test_numbers_of_unseen_classes() -> None:
    """By the distance and by the cosine of features."""
    features, labels = spots(3, 14)
    found = unseen.unseen_classes(features, labels)
    assert found.keys() == unseen.UNSEEN.keys()
    pairs = metrics.verification_both_ways(features, labels)
    for end in ("", " (cos)"):
        assert found[f"EER{end}"] == pairs[f"EER{end}"]
        assert found[f"TAR@1e-2{end}"] == pairs[f"TAR@1e-2{end}"]
        directions = features / np.linalg.norm(features, axis=1, keepdims=True) if end else features
        for gallery in (1, 10):
            rank = unseen.rank_one(directions, labels, gallery)
            assert found[f"rank-1 of {gallery}{end}"] == pytest.approx(rank)
    assert unseen.unseen_classes(features, labels) == found, "the draws are always the same"


def test_unseen_classes_refuse_what_they_cannot_tell_apart() -> None:
    features, labels = spots(3, 14)
    with pytest.raises(ValueError, match="two classes"):
        unseen.unseen_classes(features, labels * 0)
    with pytest.raises(ValueError, match="not finite"):
        unseen.unseen_classes(features * np.inf, labels)

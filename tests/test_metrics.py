"""Every number for points worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import metrics, unseen

# Two classes, two points each: means (0, 1) and (4, 1), every point 1 from its own mean.
FEATURES = np.array([[0.0, 0], [0, 2], [4, 0], [4, 2]])
LABELS = np.array([0, 0, 1, 1])


def test_accuracy() -> None:
    assert metrics.accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 75


def test_class_means() -> None:
    assert metrics.class_means(FEATURES, LABELS).tolist() == [[0, 1], [4, 1]]
    with pytest.raises(ValueError, match="class 1 has none"):
        metrics.class_means(FEATURES, LABELS * 2)


def test_compactness() -> None:
    assert metrics.compactness(FEATURES, LABELS) == pytest.approx(1 / 4)
    assert metrics.compactness(7 * FEATURES, LABELS) == pytest.approx(1 / 4)  # scale does not matter
    assert metrics.compactness(FEATURES, np.array([0, 1, 1, 0])) == float("inf")  # the means coincide


def test_fisher_ratio() -> None:
    # Between: 4 samples, each class mean 2 from the mean: 16. Within: each sample 1 from its mean: 4.
    assert metrics.fisher_ratio(FEATURES, LABELS) == pytest.approx(16 / 4)


def test_silhouette() -> None:
    # a = 2, b = (4 + √20) / 2, the same for every point.
    b = (4 + np.sqrt(20)) / 2
    assert metrics.silhouette(FEATURES, LABELS) == pytest.approx((b - 2) / b)


def test_nearest_center_accuracy() -> None:
    centers = np.array([[0.0, 1], [0, 3]])
    assert metrics.nearest_center_accuracy(FEATURES, LABELS, np.array([[0.0, 1], [4, 1]])) == 100
    assert metrics.nearest_center_accuracy(FEATURES, LABELS, centers) == 50  # (4, 2) is equally near to both


def test_drift() -> None:
    moved = FEATURES + np.array([[0, 1], [0, 1], [0, 3], [0, 3]])
    assert metrics.drift(FEATURES, LABELS, moved, LABELS) == pytest.approx((1 + 3) / 2 / 4)


def test_equal_error_and_acceptance_between_two_thresholds() -> None:
    genuine = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    scores = np.array([8.0, 7, 6, 3, 5, 4, 2, 1])
    # From above: TAR 1/4, 2/4, 3/4 at FAR 0; then FAR 1/4 with a rejection rate of 1/4.
    found = metrics.equal_error_and_acceptance(genuine, scores)
    assert found == pytest.approx({"EER": 25, "TAR@1e-2": 75, "TAR@1e-3": 75})
    # Rejection falls from 1/2 to 0 while FAR rises from 0 to 1: they meet at 1/3.
    found = metrics.equal_error_and_acceptance(np.array([1, 1, 0, 0], bool), np.array([9.0, 5, 5, 5]))
    assert found["EER"] == pytest.approx(100 / 3)


def test_equal_error_of_perfect_and_of_inverted_scores() -> None:
    genuine = np.array([1, 1, 0, 0], bool)
    assert metrics.equal_error_and_acceptance(genuine, np.array([4.0, 3, 2, 1]))["EER"] == pytest.approx(0)
    assert metrics.equal_error_and_acceptance(genuine, np.array([1.0, 2, 3, 4]))["EER"] == pytest.approx(100)


def test_limits_of_false_acceptance() -> None:
    # 1,000 impostors: one above the third genuine pair, ten above the last.
    genuine = np.r_[np.ones(4, bool), np.zeros(1_000, bool)]
    scores = np.r_[10.0, 10, 8, 1, 9, np.full(9, 7), np.zeros(990)]
    found = metrics.equal_error_and_acceptance(genuine, scores)
    assert found["TAR@1e-3"] == 75
    assert found["TAR@1e-2"] == 100
    scores[4:16] = 9  # twelve above the third pair: more than either limit allows
    assert metrics.equal_error_and_acceptance(genuine, scores)["TAR@1e-2"] == 50


def test_verification_sees_directions_or_places() -> None:
    rays = np.array([[1.0, 0], [10, 0], [0, 1], [0, 10]])  # one direction per class, different lengths
    assert metrics.verification_both_ways(rays, LABELS)["EER (cos)"] == pytest.approx(0)
    assert metrics.verification(rays, LABELS)["EER"] > 20
    spots = np.array([[1.0, 1], [1.1, 1], [10, 10], [10, 10.1]])  # one place per class, one direction for all
    assert metrics.verification(spots, LABELS)["EER"] == pytest.approx(0)


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


def test_center_gap() -> None:
    # Both classes have a spread of 1; the centers lie 0.5 and 2 from their means.
    assert metrics.center_gap(FEATURES, LABELS, np.array([[0.0, 1.5], [6, 1]])) == pytest.approx(2)


def spots(classes: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features around a center for each class, in three dimensions, and their labels, shuffled."""
    rng = np.random.default_rng(classes)
    labels = rng.permutation(np.repeat(np.arange(classes) + 4, each))
    return rng.normal(size=(classes + 4, 3))[labels] + 0.5 * rng.normal(size=(len(labels), 3)), labels


@pytest.mark.parametrize("gallery", [1, 3])
def test_rank_one_by_a_slow_loop(gallery: int) -> None:
    features, labels = spots(4, 12)
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(7):
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
    assert unseen.rank_one(features, labels, gallery, draws=7) == pytest.approx(np.mean(rates))


def test_a_gallery_leaves_images_to_look_up() -> None:
    features, labels = spots(2, 3)
    with pytest.raises(ValueError, match="a gallery of 3 needs more images of each class; one has 3"):
        unseen.rank_one(features, labels, 3)


def test_unseen_classes_by_a_slow_loop() -> None:
    """Verification over all pairs, by the distance and by the cosine of features."""
    features, labels = spots(3, 14)
    found = unseen.unseen_classes(features, labels)
    assert found.keys() == unseen.UNSEEN.keys()
    for end in ("", " (cos)"):
        genuine, alike = [], []
        for i in range(len(labels)):
            for j in range(i):
                a, b = features[i], features[j]
                cosine = float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))
                alike.append(cosine if end else -float(np.sqrt(np.sum((a - b) ** 2))))
                genuine.append(labels[i] == labels[j])
        expected = metrics.equal_error_and_acceptance(np.array(genuine), np.array(alike))
        assert found[f"EER{end}"] == pytest.approx(expected["EER"])
        assert found[f"TAR@1e-2{end}"] == pytest.approx(expected["TAR@1e-2"])
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

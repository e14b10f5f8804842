"""Which classes lie side by side: confusions counted by hand, and every order there is."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from datasets import Digits
from training import building, class_order
from training.class_order import around_the_circle, confusions, order_around
from training.parallel import Group
from training.settings import Plan, Settings


def test_confusions_are_counted_both_ways() -> None:
    """Two zeros lie nearest to each other, a one nearest to a zero, a two nearest to the one."""
    images = torch.zeros(4, 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = torch.tensor([0, 1, 3, 6])
    expected = [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    np.testing.assert_array_equal(confusions(images, torch.tensor([0, 0, 1, 2]), 3), expected)


def test_of_many_images_some_are_looked_at(mnist5k: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    some = confusions(mnist5k.train_images[::3], mnist5k.train_labels[::3], 10)
    monkeypatch.setattr(class_order, "LOOKED_AT", 1999)  # of 4,000: every third, not every second
    np.testing.assert_array_equal(confusions(mnist5k.train_images, mnist5k.train_labels, 10), some)


def test_no_order_around_the_circle_is_better() -> None:
    near = np.random.default_rng(0).integers(0, 100, (6, 6))
    near = near + near.T

    def total(order: tuple[int, ...]) -> int:
        return sum(near[a, b] for a, b in zip(order, (*order[1:], order[0]), strict=True))

    found = around_the_circle(near)
    assert sorted(found) == list(range(6))
    assert total(found) == max(map(total, itertools.permutations(range(6))))
    assert around_the_circle(np.ones((1, 1))) == (0,)
    assert around_the_circle(np.ones((2, 2))) == (0, 1)


def test_of_many_classes_no_part_turned_around_is_better() -> None:
    near = np.random.default_rng(1).integers(0, 100, (26, 26))
    near = near + near.T
    found = around_the_circle(near)
    assert sorted(found) == list(range(26))
    assert found[0] == 0

    def total(order: tuple[int, ...]) -> int:
        return sum(near[a, b] for a, b in zip(order, (*order[1:], order[0]), strict=True))

    for first, last in itertools.combinations(range(1, 27), 2):
        assert total((*found[:first], *found[first:last][::-1], *found[last:])) <= total(found)
    ring = np.zeros((40, 40))  # each class resembles two: there is one best order
    hidden = np.random.default_rng(2).permutation(40)
    ring[hidden, np.roll(hidden, 1)] = ring[np.roll(hidden, 1), hidden] = 1
    assert total(around_the_circle(near)) > 1.3 * total(tuple(range(26)))
    assert sum(ring[a, b] for a, b in itertools.pairwise(around_the_circle(ring))) > 20


def test_digits_that_look_alike_are_neighbors(mnist5k: Digits) -> None:
    found = around_the_circle(confusions(mnist5k.train_images, mnist5k.train_labels, 10))
    sides = {frozenset((a, b)) for a, b in zip(found, (*found[1:], found[0]), strict=True)}
    assert {frozenset(pair) for pair in ((4, 9), (7, 9), (3, 5), (3, 8))} <= sides


def test_a_run_starts_in_that_order(mnist5k: Digits) -> None:
    """Class weights and centers alike; without it in that of the labels."""
    expected = around_the_circle(confusions(mnist5k.train_images, mnist5k.train_labels, 10))
    group = Group(torch.device("cpu"))
    settings = Settings(head_init="spread", center_init="head", class_order="similar", precision="fp32")
    batches = building.Batches(mnist5k.train_images, mnist5k.train_labels, 32, seed=1, shift=1)
    trainer = building.build_trainer(Plan(settings=settings, compile="off", convolutions="direct"), batches, 10, group)
    for points in (trainer.head.weight, trainer.center_loss.centers):
        angles = torch.atan2(points[:, 1], points[:, 0]).rad2deg() % 360
        assert tuple(angles.argsort().tolist()) == expected == order_around(points.detach())
    plain = replace(settings, class_order="labels")
    trainer = building.build_trainer(Plan(settings=plain, compile="off", convolutions="direct"), batches, 10, group)
    angles = torch.atan2(*trainer.head.weight.T.flip(0)).rad2deg() % 360
    assert angles.argsort().tolist() == list(range(10))

"""The published settings, value by value, and who wins over whom."""

from __future__ import annotations

import inspect

import pytest

from models.heads import HEADS
from training.recipes import RECIPES, resolve
from training.settings import Settings, contradiction

PUBLISHED = {
    "reference": "lr_model=0.001 momentum=0.9 weight_decay=0.0005 stepsize=(20,) gamma=0.5 step_unit=epoch "
    "max_epoch=100 batch_size=128 lr_cent=0.5 momentum_cent=0.0 weight_cent=1.0 feature_prelu=True head_bias=True "
    "center_update=gradient shift=0 clip=None",
    "paper": "lr_model=0.01 momentum=0.9 weight_decay=0.0005 stepsize=(5000,8000) gamma=0.8 step_unit=iteration "
    "max_iterations=10000 batch_size=128 lr_cent=0.01 momentum_cent=0.9 center_schedule=True weight_cent=0.01 "
    "init=xavier center_init=xavier head_init=xavier bias_lr_factor=2.0 bias_decay=False overlapping_pool=True "
    "feature_prelu=True head_bias=False center_update=paper pixel_mean=127.5 pixel_std=128.0 shift=0",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_are_as_published(name: str) -> None:
    published = dict(word.split("=") for word in PUBLISHED[name].split())
    assert {key: str(getattr(RECIPES[name], key)).replace(" ", "") for key in published} == published


def asked(**by_hand) -> Settings:
    """Resolved settings of a recipe, a data set and values given by hand."""
    dataset = by_hand.pop("dataset", "mnist")
    return resolve(Settings(**by_hand), by_hand, dataset)


def test_recipes_say_their_names() -> None:
    assert {name: recipe.recipe for name, recipe in RECIPES.items()} == {
        n: n for n in ("default", "accurate", "reference", "paper")
    }
    assert RECIPES["default"].max_epoch == 10
    assert all(contradiction(recipe) is None for recipe in RECIPES.values())


def test_by_hand_wins_over_data_set_wins_over_recipe() -> None:
    assert asked().batch_size == 64
    assert asked(dataset="mnist5k").batch_size == 32
    assert asked(dataset="mnist5k", batch_size=7).batch_size == 7
    assert asked(dataset="mnist5k", recipe="reference").batch_size == 128


def test_accurate_is_thirty_epochs_of_cosface_and_center_loss() -> None:
    accurate, few = asked(recipe="accurate"), asked(recipe="accurate", dataset="mnist5k")
    assert (accurate.max_epoch, few.max_epoch) == (30, 3 * asked(dataset="mnist5k").max_epoch)
    assert (accurate.head, accurate.weight_cent) == ("cosface", 1.0)


def test_another_head_than_the_recipes_brings_its_own_settings() -> None:
    assert asked(recipe="accurate", head="cosface").weight_cent == 1.0
    plain = asked(recipe="accurate", head="softmax")
    assert (plain.head, plain.scale, plain.margin, plain.weight_cent) == ("softmax", None, None, 1.0)
    other = asked(recipe="accurate", head="arcface")
    assert (other.head, other.margin, other.weight_cent, other.rotation) == ("arcface", 0.2, 1.0, 10.0)


def test_classes_have_an_order_where_they_start_around_a_circle() -> None:
    assert asked(recipe="accurate").class_order == "similar"
    for more in (dict(feat_dim=64), dict(head_init="xavier")):
        assert asked(recipe="accurate", **more).class_order == "labels"
        assert "needs --feat-dim 2" in str(contradiction(asked(class_order="similar", **more)))


@pytest.mark.parametrize("head", ["arcface", "cosface"])
def test_margin_heads_stand_alone_with_their_own_defaults(head: str) -> None:
    parameters = inspect.signature(HEADS[head].load()).parameters
    settings = asked(head=head)
    assert (settings.weight_cent, settings.scale, settings.margin) == (
        0.0,
        parameters["s"].default,
        parameters["m"].default,
    )
    assert asked(head=head, weight_cent=0.3, margin=0.1).weight_cent == 0.3
    assert asked(head="softmax").scale is None


def test_a_length_in_iterations_wins_over_the_recipes_epochs() -> None:
    assert asked(max_iterations=500).max_epoch is None
    assert asked(max_iterations=500, max_epoch=2).max_epoch == 2
    assert asked(max_iterations=None).max_epoch == 10

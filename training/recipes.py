"""The recipes, each a set of differences from the default one, and the settings that a command line leads to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from models.heads import HEADS
from training.settings import Settings, has_a_circle, take

DEFAULT = Settings()

# CosFace with its features held near a circle by center loss, confusable classes side by side on it, and digits
# turned, scaled and slanted a little, for three times as long. How it was chosen: docs/reproduction/accurate.md.
ACCURATE = replace(
    DEFAULT,
    recipe="accurate",
    max_epoch=30,
    rotation=10.0,
    scaling=0.1,
    shearing=0.15,
    head="cosface",
    scale=30.0,
    margin=0.1,
    head_init="spread",
    class_order="similar",
    weight_cent=1.0,
    center_init="head",
    center_hold=1.0,
    warmup=0.2,
)

# The settings of the widely copied PyTorch repository, plateau at 10 % and all.
REFERENCE = replace(
    DEFAULT,
    recipe="reference",
    batch_size=128,
    max_epoch=100,
    lr_model=0.001,
    clip=None,
    schedule="step",
    stepsize=(20,),
    gamma=0.5,
    center_update="gradient",
    center_schedule=False,
    weight_cent=1.0,
    init="torch",
    head_init="torch",
    head_bias=True,
    feature_lr_factor=1.0,
    feature_prelu=True,
    pixel_mean=0.1307 * 255,
    pixel_std=0.3081 * 255,
    shift=0,
    precision="fp32",
)

# The settings of the authors' released Caffe example. Its centers learn at 0.01 with momentum, where the
# paper's text says α = 0.5.
PAPER = replace(
    DEFAULT,
    recipe="paper",
    batch_size=128,
    max_epoch=None,
    max_iterations=10_000,
    lr_model=0.01,
    clip=None,
    schedule="step",
    stepsize=(5_000, 8_000),
    gamma=0.8,
    step_unit="iteration",
    lr_cent=0.01,
    momentum_cent=0.9,
    center_init="xavier",
    center_floor=0.0,
    weight_cent=0.01,
    init="xavier",
    feature_lr_factor=1.0,
    bias_lr_factor=2.0,
    bias_decay=False,
    feature_prelu=True,
    overlapping_pool=True,
    pixel_mean=127.5,
    pixel_std=128.0,
    shift=0,
    precision="fp32",
)

RECIPES = {recipe.recipe: recipe for recipe in (DEFAULT, ACCURATE, REFERENCE, PAPER)}
EPOCHS_OF_5K = {"default": 12, "accurate": 36}


def resolve(asked: Settings, by_hand: Collection[str], dataset: str) -> Settings:
    """Return the settings of a run on that data set: the recipe's, then its changes for data set and head,
    then those that were given by hand, whose names are `by_hand`."""
    settings = RECIPES[asked.recipe]
    if dataset == "mnist5k" and asked.recipe in EPOCHS_OF_5K:  # 5,000 digits need more passes in smaller batches
        settings = replace(settings, batch_size=32, max_epoch=EPOCHS_OF_5K[asked.recipe])
    if "head" in by_hand and asked.head != settings.head:
        weight = 0.0 if settings.head == "softmax" else settings.weight_cent  # a margin head works alone as a rule
        row = HEADS[asked.head]
        settings = replace(settings, scale=row.scale, margin=row.margin, weight_cent=weight)
    lengths = ("max_epoch", "max_iterations")
    if any(name in by_hand and getattr(asked, name) is not None for name in lengths):
        settings = replace(settings, max_epoch=None, max_iterations=None)  # a run has the length that was asked for
    settings = replace(take(settings, asked, by_hand), dataset=dataset)
    if not has_a_circle(settings) and "class_order" not in by_hand:
        settings = replace(settings, class_order="labels")
    return settings

"""Named sets of hyper-parameters, as plain data: a recipe fills what the command line leaves open.

Units: learning rates are SGD's, `…_lr_factor`s are relative to `lr_model`; `stepsize` counts in
`step_unit`; `warmup` and `center_hold` are fractions of the run; `pixel_mean` and `pixel_std` are
grey levels from 0 to 255; `shift` is pixels; `clip` is the largest norm of the model's and the head's gradient; `weight_cent` is λ.
"""

from __future__ import annotations

from typing import Any

# Ours: does not collapse at the start. Class weights and centres start on one circle, with nothing
# to pull them to the origin; the centres are held until the features have found their class. What
# enters the feature layer has a large part common to all images: at the full rate every step of
# that layer would throw all the features to one side together, so it learns slowly.
DEFAULT: dict[str, Any] = dict(
    max_epoch=10,
    max_iterations=None,
    batch_size=128,
    lr_model=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    clip=2.0,
    schedule="one-cycle",
    warmup=0.2,
    stepsize=None,
    gamma=None,
    step_unit="epoch",
    lr_cent=0.5,
    momentum_cent=0.0,
    center_update="paper",
    center_init="head",
    center_hold=0.25,
    center_schedule=False,
    weight_cent=0.1,
    init="kaiming",
    head_init="spread",
    head_bias=False,
    feature_lr_factor=0.1,
    bias_lr_factor=1.0,
    bias_decay=True,
    feature_prelu=False,
    overlapping_pool=False,
    pixel_mean=33.32,
    pixel_std=78.57,
    shift=1,
    precision="auto",
)

# The settings of the widely copied PyTorch repository, plateau at 10 % and all.
REFERENCE: dict[str, Any] = dict(
    max_epoch=100,
    max_iterations=None,
    batch_size=128,
    lr_model=0.001,
    momentum=0.9,
    weight_decay=5e-4,
    clip=None,
    schedule="step",
    warmup=0.0,
    stepsize=[20],
    gamma=0.5,
    step_unit="epoch",
    lr_cent=0.5,
    momentum_cent=0.0,
    center_update="gradient",
    center_init="normal",
    center_hold=0.0,
    center_schedule=False,
    weight_cent=1.0,
    init="torch",
    head_init="torch",
    head_bias=True,
    feature_lr_factor=1.0,
    bias_lr_factor=1.0,
    bias_decay=True,
    feature_prelu=True,
    overlapping_pool=False,
    pixel_mean=0.1307 * 255,
    pixel_std=0.3081 * 255,
    shift=0,
    precision="fp32",
)

# The settings of the authors' released Caffe example. Its centres learn at 0.01 with momentum,
# where the paper's text says α = 0.5.
PAPER: dict[str, Any] = dict(
    max_epoch=None,
    max_iterations=10_000,
    batch_size=128,
    lr_model=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    clip=None,
    schedule="step",
    warmup=0.0,
    stepsize=[5_000, 8_000],
    gamma=0.8,
    step_unit="iteration",
    lr_cent=0.01,
    momentum_cent=0.9,
    center_update="paper",
    center_init="xavier",
    center_hold=0.0,
    center_schedule=True,
    weight_cent=0.01,
    init="xavier",
    head_init="xavier",
    head_bias=False,
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

RECIPES = {"default": DEFAULT, "reference": REFERENCE, "paper": PAPER}

# The 5,000 digits need more passes in smaller batches than the 60,000.
FOR_DATASET: dict[tuple[str, str], dict[str, Any]] = {
    ("default", "mnist5k"): dict(batch_size=64, max_epoch=20),
}


# A margin head works alone unless λ is asked for. In two dimensions ten classes are 36° apart:
# scale and margin are smaller than for faces.
FOR_HEAD: dict[str, dict[str, Any]] = {
    "arcface": dict(weight_cent=0.0, scale=30.0, margin=0.2),
    "cosface": dict(weight_cent=0.0, scale=30.0, margin=0.1),
}


def resolve(recipe: str, dataset: str, by_hand: dict[str, Any]) -> dict[str, Any]:
    """Return every setting: the recipe's, then its changes for data set and head, then those by hand."""
    head = FOR_HEAD.get(by_hand.get("head", "softmax"), {})
    return RECIPES[recipe] | FOR_DATASET.get((recipe, dataset), {}) | head | by_hand

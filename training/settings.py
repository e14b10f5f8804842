"""What a run is: every setting once, with its type, unit, default and meaning; the recipes; to and from JSON.

`Settings` says what is trained: two runs whose settings are equal but for the seed are the same experiment.
`Execution` says how it is computed, which moves results by rounding alone, `Options` what the run shows of
itself. A `Plan` holds the three, and beside them what was asked for and why something was chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from datasets import NAMES
from models import heads
from models.heads import HEADS
from training.fields import Number, check, setting
from utils import UserError

Kind = TypeVar("Kind", "Settings", "Execution", "Options")
START_RADIUS = 5.0  # of class weights and centers alike, in feature units

COUNT = Number(int, 1, 10**6)
RATE = Number(float, 0, 1e6, open_low=True)
NOT_NEGATIVE = Number(float, 0, 1e6)
SHARE = Number(float, 0, 1)
FACTOR = Number(float, 0, 1e6, open_low=True)
DATA, MODEL, OPTIMIZATION, RUN = "data", "model", "optimization (defaults are the default recipe's)", "run"


# ---------------------------------------------------------------- the settings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is trained. The defaults are the default recipe's: it does not collapse at the start.

    What keeps it from that are small steps: the gradient's norm is clipped, and the feature layer learns slowly,
    since what enters it has a large part common to all images, and at the full rate every step would throw all the
    features to one side together. Class weights and centers start on one circle, with nothing to pull them to the
    origin, and the centers are held until the features have found their class; that, and the rest, is not needed
    for it (docs/reproduction.md).
    """

    recipe: str = setting("default", "default: ours; accurate: CosFace + center loss, longer and with warped digits; reference: the widely copied repository's settings; paper: the authors' Caffe example's", choices=("default", "accurate", "reference", "paper"), group=OPTIMIZATION)  # fmt: skip
    seed: int = setting(1, "of initialization and order", Number(int, 0, 2**31 - 1), group=RUN, metavar="N")

    dataset: str = setting("auto", f"{', '.join(NAMES)}, or a folder with four IDX files of 28×28 gray images; auto: MNIST if it is there or can be downloaded, otherwise mnist5k", group=DATA, metavar="NAME_OR_DIR")  # fmt: skip
    known_classes: tuple[int, ...] | None = setting(None, "train and test on these classes alone (default: all)", Number(int, 0, 255), group=DATA, metavar="CLASS")  # fmt: skip
    hold_out: int = setting(0, "keep N training images out of training, for predict.py to set its threshold on", Number(int, 0, 10**6), group=DATA, metavar="N")  # fmt: skip
    pixel_mean: float = setting(33.32, "subtracted from gray levels, 0 to 255", Number(float, -255, 255))
    pixel_std: float = setting(78.57, "what they are then divided by", FACTOR)
    shift: int = setting(1, "training images are moved by up to so many pixels in both directions", Number(int, 0, 14))
    rotation: float = setting(
        0.0, "training images are turned by up to so many degrees, to either side", Number(float, 0, 180)
    )
    scaling: float = setting(0.0, "they are made larger or smaller by up to this share", Number(float, 0, 0.9))
    shearing: float = setting(0.0, "they are slanted by up to this share of their height", Number(float, 0, 2))
    bending: float = setting(0.0, "and bent: places in them move by up to so many pixels", Number(float, 0, 14))

    model: str = setting("lenet++", "cnn is another name of lenet++", choices=("lenet++", "cnn"), group=MODEL)
    feat_dim: int = setting(2, "feature dimension", Number(int, 1, 4096), group=MODEL, metavar="D")
    feature_prelu: bool = setting(False, "whether a PReLU follows the feature layer")
    overlapping_pool: bool = setting(False, "whether the third pooling is 3×3 with stride 2, not 2×2")
    init: str = setting("kaiming", "start of the network's weights", choices=("kaiming", "xavier", "torch"))
    head: str = setting(
        "softmax",
        "features to logits; cosface with --recipe accurate",
        choices=tuple(HEADS),
        group=MODEL,
    )
    head_bias: bool = setting(False, "whether the softmax head has a bias; without one the classes lie around a circle")
    head_init: str = setting("spread", "start of the class weights; spread: pointing apart, at radius 5", choices=("spread", "xavier", "torch"))  # fmt: skip
    class_order: str = setting("labels", "around the circle on which they start in two dimensions; similar: easily confused classes side by side", choices=("labels", "similar"))  # fmt: skip
    scale: float | None = setting(None, f"scale s: {heads.defaults('scale')}", RATE, group=MODEL, metavar="S")
    margin: float | None = setting(None, f"margin m: {heads.defaults('margin')}", Number(float, 0, 10), group=MODEL, metavar="M")  # fmt: skip

    weight_cent: float = setting(0.1, "λ, weight of the center loss, 0 is softmax alone; 0 with a margin head, but 1 with --recipe accurate", NOT_NEGATIVE, group=OPTIMIZATION, metavar="WEIGHT")  # fmt: skip
    lr_cent: float = setting(0.5, "learning rate of the centers, the paper's α", NOT_NEGATIVE, group=OPTIMIZATION, metavar="LR")  # fmt: skip
    momentum_cent: float = setting(0.0, "of the centers' SGD", SHARE)
    center_update: str = setting("paper", "how centers learn: the loss's gradient, or eq. 4", choices=("gradient", "paper"), group=OPTIMIZATION)  # fmt: skip
    center_init: str = setting("head", "start of the centers; head: in the directions of the class weights, at radius 5", choices=("head", "normal", "xavier"))  # fmt: skip
    center_hold: float = setting(0.25, "share of the run for which the centers are held still", SHARE)
    center_schedule: bool = setting(True, "whether the centers' rate follows the schedule of the model's")
    center_floor: float = setting(0.2, "share of lr_cent below which that schedule does not take it", SHARE)

    lr_model: float = setting(0.1, "learning rate of network and head, at its peak", RATE, group=OPTIMIZATION, metavar="LR")  # fmt: skip
    feature_lr_factor: float = setting(0.1, "rate of the feature layer over lr_model", FACTOR)
    bias_lr_factor: float = setting(1.0, "rate of biases over lr_model", FACTOR)
    momentum: float = setting(0.9, "of SGD", SHARE)
    weight_decay: float = setting(5e-4, "of SGD", SHARE)
    bias_decay: bool = setting(True, "whether biases decay")
    clip: float | None = setting(2.0, "largest norm of the model's and the head's gradient", FACTOR)
    batch_size: int = setting(64, "images; 32 on mnist5k", COUNT, group=OPTIMIZATION, metavar="B")
    max_epoch: int | None = setting(10, "epochs; 12 on mnist5k", COUNT, group=OPTIMIZATION, metavar="N")
    max_iterations: int | None = setting(None, "length in batches, for a recipe that counts so", Number(int, 1, 10**9))
    schedule: str = setting("one-cycle", "of the learning rate; one-cycle: up over the warm-up, then down to 0", choices=("one-cycle", "step"))  # fmt: skip
    warmup: float = setting(0.2, "share of the run over which the rate rises", SHARE)
    stepsize: tuple[int, ...] | None = setting(None, "multiply the learning rate by gamma every N epochs (iterations with --recipe paper), or at each of several N (default: one cycle instead of steps)", COUNT, group=OPTIMIZATION, metavar="N")  # fmt: skip
    step_unit: str = setting("epoch", "what stepsize counts", choices=("epoch", "iteration"))
    gamma: float | None = setting(None, "that factor (default: 0.5)", Number(float, 0, 1, open_low=True), group=OPTIMIZATION, metavar="G")  # fmt: skip
    precision: str = setting("auto", "of the convolutions; auto: bf16 where the hardware computes it natively", choices=("auto", "fp32", "tf32", "bf16"), group=OPTIMIZATION)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is computed: kept for good, so that it goes on to the same bits."""

    compile: str = setting("auto", "torch.compile the network; auto: where that has been seen to pay, nowhere so far", choices=("auto", "on", "off"), group=OPTIMIZATION)  # fmt: skip
    convolutions: str = setting("auto", "how the CPU computes them: direct, or fourier, through the frequency domain; auto: fourier", choices=("auto", "direct", "fourier"), group=OPTIMIZATION)  # fmt: skip
    cuda_graph: str = setting("auto", "on a GPU record a training step once and replay it; auto: off until it has been measured", choices=("auto", "on", "off"), group=OPTIMIZATION)  # fmt: skip
    deterministic: bool = setting(False, "the same seed gives the same bits on CUDA too, at some cost; on the CPU it always does", group=RUN)  # fmt: skip
    threads: int | None = setting(None, "of the processor", Number(int, 1, 1024))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run shows of itself: kept as well, and free to change when it is resumed."""

    data_root: str = setting("data", "holds MNIST/raw/…, as torchvision lays it out", group=DATA, metavar="DIR")
    eval_freq: int = setting(1, "evaluate every N epochs and after the last", COUNT, group=RUN, metavar="N")
    print_freq: int = setting(50, "log every N batches", COUNT, group=RUN, metavar="N")
    plot: bool = setting(False, "draw the features of training and test set after each epoch", group=RUN)
    plot_freq: int = setting(1, "with --plot: every N epochs and after the last", COUNT, group=RUN, metavar="N")
    regions: bool = setting(False, "--plot, and shade what each class is taken for up to the border of the unknown; two features", group=RUN)  # fmt: skip
    animate: bool = setting(False, "--plot, and at the end a film of the epochs, animation.gif", group=RUN)
    tensorboard: bool = setting(False, "write TensorBoard events too (needs the package tensorboard)", group=RUN)


@dataclass(frozen=True)
class Choice:
    """What was asked for, and why the run has what it has."""

    asked: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that makes a run, everything decided; `choices` by the name of the setting that was left open."""

    settings: Settings
    execution: Execution
    options: Options
    choices: Mapping[str, Choice]

    def to_json(self) -> dict[str, object]:
        """Return what `plan_from_json` reads."""
        return dataclasses.asdict(self)

    def asked(self, name: str) -> object:
        """Return what was asked for under a name: what is there, where nothing was left open."""
        if name in self.choices:
            return self.choices[name].asked
        return getattr(self.settings, name) if hasattr(self.settings, name) else getattr(self.execution, name)


# ---------------------------------------------------------------- recipes

DEFAULT = Settings()

# The most accurate that was found with two features: CosFace with its features held near a circle by center loss,
# confusable classes side by side on it, and digits turned, scaled and slanted a little, for three times as long.
# Chosen on training digits held out (docs/reproduction.md).
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
    class_order="similar",
    weight_cent=1.0,
    center_hold=1.0,
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
    warmup=0.0,
    stepsize=(20,),
    gamma=0.5,
    center_update="gradient",
    center_init="normal",
    center_hold=0.0,
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
    warmup=0.0,
    stepsize=(5_000, 8_000),
    gamma=0.8,
    step_unit="iteration",
    lr_cent=0.01,
    momentum_cent=0.9,
    center_init="xavier",
    center_hold=0.0,
    center_floor=0.0,
    weight_cent=0.01,
    init="xavier",
    head_init="xavier",
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
    if "max_iterations" in by_hand and asked.max_iterations is not None and "max_epoch" not in by_hand:
        settings = replace(settings, max_epoch=None)  # it is the length that was asked for
    settings = replace(take(settings, asked, by_hand), dataset=dataset)
    if not _has_a_circle(settings) and "class_order" not in by_hand:
        settings = replace(settings, class_order="labels")
    return settings


def _has_a_circle(settings: Settings) -> bool:
    """Return whether the class weights start around a circle."""
    return settings.feat_dim == 2 and settings.head_init == "spread"


def take(there: Kind, given: Kind, names: Collection[str]) -> Kind:
    """Return `there` with the values that `given` has under these names, as far as it knows them."""
    return replace(there, **{f.name: getattr(given, f.name) for f in dataclasses.fields(there) if f.name in names})


# ---------------------------------------------------------------- read back


def contradiction(settings: Settings) -> str | None:
    """Return what in resolved settings does not fit together, in words of the command line, or None."""
    known = settings.known_classes
    if known is not None and (len(known) < 2 or len(set(known)) < len(known)):
        return f"--known-classes: name at least two different digits; got {' '.join(map(str, known))}"
    if settings.stepsize is not None and sorted(set(settings.stepsize)) != list(settings.stepsize):
        return "--stepsize: several values must rise"
    if settings.class_order == "similar" and not _has_a_circle(settings):
        return "--set class_order=similar is about a circle: needs --feat-dim 2 and head_init=spread"
    if settings.schedule == "step" and (settings.stepsize is None or settings.gamma is None):
        return "--set schedule=step needs --stepsize and --gamma"
    if settings.max_epoch is None and settings.max_iterations is None:
        return "--set max_epoch=none needs max_iterations"
    row = HEADS[settings.head]
    if any(getattr(settings, name) is None and getattr(row, name) is not None for name in ("scale", "margin")):
        return "a margin head needs --scale and --margin"
    if row.margin is not None and settings.margin is not None and settings.margin > row.largest:
        return f"--margin: {settings.head} {row.margins}; got {settings.margin:g}"
    return None


def plan_from_json(raw: object, where: str) -> Plan:
    """Return the plan in a run's config.json or checkpoint; what an older run did not know has its default.

    Raises:
        UserError: for a value that no flag would take; the message names the file and the entry.
    """
    parts = {name: _mapping(raw, name, where) for name in ("settings", "execution", "options", "choices")}
    settings, execution = parts["settings"], parts["execution"]
    for name in [name for name in settings if name in {f.name for f in dataclasses.fields(Execution)}]:
        execution[name] = settings.pop(name)  # runs of 2026 had all of it in one place
    for name in [name for name in settings if name.startswith("asked_")]:
        key = name.removeprefix("asked_")
        parts["choices"][key] = {"asked": settings.pop(name), "why": settings.pop(f"{key}_why", "")}
    recipe = settings.get("recipe", "default")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise UserError(f"{where}: recipe: {str(recipe)[:80]!r}: must be one of {', '.join(RECIPES)}")
    plan = Plan(
        settings=_filled(
            replace(RECIPES[recipe], class_order="labels"), settings, where
        ),  # as it was before there was a choice
        execution=_filled(Execution(compile="off", convolutions="direct", cuda_graph="off"), execution, where),
        options=_filled(Options(), parts["options"], where),
        choices={name: _choice(value, name, where) for name, value in parts["choices"].items()},
    )
    if (wrong := contradiction(plan.settings)) is not None:
        raise UserError(f"{where}: {wrong}")
    return plan


def _mapping(raw: object, name: str, where: str) -> dict[str, object]:
    inner = raw.get(name, None if name == "settings" else {}) if isinstance(raw, Mapping) else None
    if not isinstance(inner, Mapping) or not all(isinstance(key, str) for key in inner):
        raise UserError(f"{where}: {name}: must be an object with the run's {name}")
    return dict(inner)


def _filled(base: Kind, values: Mapping[str, object], where: str) -> Kind:
    checked = {}
    known = {f.name for f in dataclasses.fields(base)}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: {name}: a setting that this version does not know")
        try:
            checked[name] = check(type(base), name, value)
        except ValueError as error:
            raise UserError(f"{where}: {name}: {str(value)[:80]!r}: {error}") from None
    return replace(base, **checked)


def _choice(value: object, name: str, where: str) -> Choice:
    if not isinstance(value, Mapping) or not all(isinstance(value.get(key), str) for key in ("asked", "why")):
        raise UserError(f"{where}: choices: {name}: must hold asked and why")
    return Choice(value["asked"], value["why"])

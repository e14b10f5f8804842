"""What a run is: every setting once, with its type, unit, default and meaning; to and from JSON.

`Settings` says what is trained: two runs whose settings are equal but for the seed are the same experiment. A `Plan`
is all that makes a run: its settings, how they are computed, and what it shows of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from datasets import NAMES
from models import heads
from models.heads import HEADS
from training.fields import check, convert, declared, setting
from utils import UserError

Kind = TypeVar("Kind", "Settings", "Plan")
START_RADIUS = 5.0  # of class weights and centers alike, in feature units

Count = Annotated[int, Meta(ge=1, le=10**6)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]
NotNegative = Annotated[float, Meta(ge=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, le=1)]
Seed = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Class = Annotated[int, Meta(ge=0, le=255)]
DATA, MODEL, OPTIMIZATION, RUN = "data", "model", "optimization (defaults are the default recipe's)", "run"


# ---------------------------------------------------------------- the settings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is trained. The defaults are the default recipe's: the gradient's norm is clipped and the feature layer
    learns slowly, because features can shrink to one point at the start (docs/reproduction/ablation.md)."""

    # fmt: off
    recipe: str = setting("default", "default: this project's; accurate: CosFace + center loss, longer and with warped digits; reference: the widely copied repository's settings; paper: the authors' Caffe example's", choices=("default", "accurate", "reference", "paper"), group=OPTIMIZATION)
    seed: Seed = setting(1, "seed of initialization and of the order of images", group=RUN, metavar="N")

    dataset: str = setting("auto", f"{', '.join(NAMES)}, or a folder with four IDX files of 28×28 gray images; auto: MNIST if it is there or can be downloaded, otherwise mnist5k", group=DATA, metavar="NAME_OR_DIR")
    known_classes: tuple[Class, ...] | None = setting(None, "train and test on these classes alone (default: all)", group=DATA, metavar="CLASS")
    hold_out: Annotated[int, Meta(ge=0, le=10**6)] = setting(0, "number of training images to keep out of training; predict.py sets its threshold on them", group=DATA, metavar="N")
    pixel_mean: Annotated[float, Meta(ge=-255, le=255)] = setting(33.32, "gray level that is subtracted, 0 to 255")
    pixel_std: Positive = setting(78.57, "gray levels to divide by after that")
    shift: Annotated[int, Meta(ge=0, le=14)] = setting(1, "largest shift of a training image along each axis, in pixels")
    rotation: Annotated[float, Meta(ge=0, le=180)] = setting(0.0, "largest rotation of a training image in either direction, in degrees")
    scaling: Annotated[float, Meta(ge=0, le=0.9)] = setting(0.0, "largest change of a training image's size, as a share of the size")
    shearing: Annotated[float, Meta(ge=0, le=2)] = setting(0.0, "largest slant of a training image, as a share of its height")

    model: str = setting("lenet++", "network; cnn is another name for lenet++", choices=("lenet++", "cnn"), group=MODEL)
    feat_dim: Annotated[int, Meta(ge=1, le=4096)] = setting(2, "feature dimension", group=MODEL, metavar="D")
    feature_prelu: bool = setting(False, "whether a PReLU follows the feature layer")
    overlapping_pool: bool = setting(False, "whether the third pooling is 3×3 with stride 2 instead of 2×2")
    init: str = setting("kaiming", "initialization of the network's weights", choices=("kaiming", "xavier", "torch"))
    head: str = setting("softmax", "layer that turns features into logits; cosface with --recipe accurate", choices=tuple(HEADS), group=MODEL)
    head_bias: bool = setting(False, "whether the softmax head has a bias; without one the classes lie around a circle")
    head_init: str = setting("xavier", "initialization of the class weights; spread: pointing apart, at radius 5", choices=("spread", "xavier", "torch"))
    class_order: str = setting("labels", "order of the classes around the starting circle in two dimensions; similar: easily confused classes side by side", choices=("labels", "similar"))
    scale: Positive | None = setting(None, f"scale s: {heads.defaults('scale')}", group=MODEL, metavar="S")
    margin: Annotated[float, Meta(ge=0, le=10)] | None = setting(None, f"margin m: {heads.defaults('margin')}", group=MODEL, metavar="M")

    weight_cent: NotNegative = setting(0.1, "λ, weight of the center loss; 0: no center loss; with a margin head 0, in the recipes accurate and reference 1, in paper 0.01", group=OPTIMIZATION, metavar="WEIGHT")
    lr_cent: NotNegative = setting(0.5, "learning rate of the centers, the paper's α", group=OPTIMIZATION, metavar="LR")
    momentum_cent: Share = setting(0.0, "SGD momentum of the centers")
    center_update: str = setting("paper", "how the centers learn; gradient: from the loss; paper: by eq. 4", choices=("gradient", "paper"), group=OPTIMIZATION)
    center_init: str = setting("normal", "initialization of the centers; head: in the directions of the class weights, at radius 5", choices=("head", "normal", "xavier"))
    center_hold: Share = setting(0.0, "share of the run, from its start, during which the centers do not move")
    center_schedule: bool = setting(True, "whether the learning rate of the centers follows the schedule")
    center_floor: Share = setting(0.2, "lowest learning rate of the centers under the schedule, as a share of lr_cent")

    lr_model: Positive = setting(0.1, "learning rate of network and head, at its peak", group=OPTIMIZATION, metavar="LR")
    feature_lr_factor: Positive = setting(0.1, "learning rate of the feature layer, as a multiple of lr_model")
    bias_lr_factor: Positive = setting(1.0, "learning rate of biases, as a multiple of lr_model")
    momentum: Share = setting(0.9, "SGD momentum of the model")
    weight_decay: Share = setting(5e-4, "weight decay of the model")
    bias_decay: bool = setting(True, "whether weight decay applies to biases")
    clip: Positive | None = setting(2.0, "gradients of model and head are scaled down to this norm; none: no clipping")
    batch_size: Count = setting(64, "images in a batch; 32 on mnist5k", group=OPTIMIZATION, metavar="B")
    max_epoch: Count | None = setting(10, "number of epochs; 12 on mnist5k", group=OPTIMIZATION, metavar="N")
    max_iterations: Annotated[int, Meta(ge=1, le=10**9)] | None = setting(None, "length of the run in batches, in place of epochs")
    schedule: str = setting("one-cycle", "schedule of the learning rate; one-cycle: up over the warm-up, then down to 0", choices=("one-cycle", "step"))
    warmup: Share = setting(0.0, "share of the run during which the learning rate rises")
    stepsize: tuple[Count, ...] | None = setting(None, "multiply the learning rate by gamma every N epochs (iterations with --recipe paper), or once at each of several N (default: the one-cycle schedule)", group=OPTIMIZATION, metavar="N")
    step_unit: str = setting("epoch", "unit of stepsize", choices=("epoch", "iteration"))
    gamma: Annotated[float, Meta(gt=0, le=1)] | None = setting(None, "factor of --stepsize (default: 0.5)", group=OPTIMIZATION, metavar="G")
    precision: str = setting("auto", "precision of the convolutions; auto: bf16 where the hardware computes it natively", choices=("auto", "fp32", "tf32", "bf16"), group=OPTIMIZATION)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that makes a run. For precision, compile, convolutions and dataset, `asked` holds what was asked for, and
    for the first three `why` the reason for the run's value."""

    settings: Settings = field(default_factory=Settings)

    # fmt: off
    # How the run is computed: changes results only by rounding. A resumed run keeps what is not `CHANGEABLE`.
    compile: str = setting("auto", "compile the network with torch.compile; auto: off, since no measured machine was faster with it", choices=("auto", "on", "off"), group=OPTIMIZATION)
    convolutions: str = setting("auto", "how the CPU computes convolutions; direct: with torch's own; fourier: in the frequency domain; auto: fourier, but direct with --compile", choices=("auto", "direct", "fourier"), group=OPTIMIZATION)
    deterministic: bool = setting(False, "make the same seed give the same bits on CUDA too, at some cost; on the CPU it always does", group=RUN)
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = setting(None, "number of CPU threads")

    # What the run shows of itself: may change when it is resumed.
    data_root: str = setting("data", "folder that holds the data sets as torchvision lays them out: DIR/MNIST/raw/…", group=DATA, metavar="DIR")
    eval_freq: Count = setting(1, "evaluate every N epochs and after the last", group=RUN, metavar="N")
    print_freq: Count = setting(50, "log every N batches", group=RUN, metavar="N")
    plot: bool = setting(False, "draw the features of training and test set after each epoch", group=RUN)
    plot_freq: Count = setting(1, "with --plot: every N epochs and after the last", group=RUN, metavar="N")
    regions: bool = setting(False, "like --plot, and shade the region of each class up to the border of the unknown; needs two features", group=RUN)
    animate: bool = setting(False, "like --plot, and make a film at the end, animation.gif: batches 1, 2, 4, 8, … of the first epoch, then the epochs", group=RUN)
    tensorboard: bool = setting(False, "write TensorBoard events too (needs the package tensorboard)", group=RUN)
    # fmt: on

    asked: Mapping[str, str] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)

    def value(self, name: str) -> object:
        """Return a setting's value, of what is trained or of how it is computed and shown."""
        return getattr(self.settings if hasattr(self.settings, name) else self, name)

    def asked_for(self, name: str) -> object:
        """Return what was asked for under a setting's name, such as ``auto``; by default, the run's value."""
        return self.asked[name] if name in self.asked else self.value(name)


COMPUTED = ("compile", "convolutions", "deterministic", "threads")
SHOWN = ("data_root", "eval_freq", "print_freq", "plot", "plot_freq", "regions", "animate", "tensorboard")
CHANGEABLE = (*SHOWN, "compile", "convolutions", "threads")  # by --resume


def take(there: Kind, given: Kind, names: Collection[str]) -> Kind:
    """Return `there` with `given`'s values for these names; names that `there` lacks are ignored."""
    return replace(there, **{name: getattr(given, name) for name, _, _ in declared(type(there)) if name in names})


def has_a_circle(settings: Settings) -> bool:
    """Return whether the class weights start around a circle."""
    return settings.feat_dim == 2 and settings.head_init == "spread"


# ---------------------------------------------------------------- read back


def contradiction(settings: Settings) -> str | None:
    """Return what in resolved settings does not fit together, in words of the command line, or None."""
    known = settings.known_classes
    if known is not None and (len(known) < 2 or len(set(known)) < len(known)):
        return f"--known-classes: name at least two classes, each once; got {' '.join(map(str, known))}"
    if settings.stepsize is not None and sorted(set(settings.stepsize)) != list(settings.stepsize):
        return "--stepsize: the values must increase"
    if settings.class_order == "similar" and not has_a_circle(settings):
        return "--set class_order=similar needs --feat-dim 2 and head_init=spread"
    if settings.schedule == "step" and (settings.stepsize is None or settings.gamma is None):
        return "--set schedule=step needs --stepsize and --gamma"
    if settings.max_epoch is None and settings.max_iterations is None:
        return "a run needs max_epoch or max_iterations"
    row = HEADS[settings.head]
    if any(getattr(settings, name) is None and getattr(row, name) is not None for name in ("scale", "margin")):
        return "a margin head needs --scale and --margin"
    if row.margin is not None and settings.margin is not None and settings.margin > row.largest:
        return f"--margin: {settings.head} {row.margins}; got {settings.margin:g}"
    return None


def plan_from_json(raw: Mapping[str, object], where: str) -> Plan:
    """Return the plan that config.json or a checkpoint holds.

    Raises:
        UserError: for an entry that is missing, unknown, or has a value that no flag would take; the message names
            the file and the entry.
    """
    inner = raw.get("settings")
    if not isinstance(inner, Mapping):
        raise UserError(f"{where}: settings: must be an object with the run's settings")
    known = {name for name, _, _ in declared(Settings)}
    if other := sorted(map(str, known ^ set(inner))):
        raise UserError(f"{where}: settings: {other[0][:80]}: is {'missing' if other[0] in known else 'unknown'}")
    reasons = {
        name: _read(name, raw.get(name), lambda value: convert(value, dict[str, str]), where)
        for name in ("asked", "why")
    }
    plan = Plan(settings=Settings(**_entries(Settings, inner, where)), **_entries(Plan, raw, where), **reasons)
    if (wrong := contradiction(plan.settings)) is not None:
        raise UserError(f"{where}: {wrong}")
    return plan


def _entries(cls: type[Any], values: Mapping[str, object], where: str) -> dict[str, Any]:
    return {name: _read(name, values.get(name), partial(check, cls, name), where) for name, _, _ in declared(cls)}


def _read(name: str, value: object, read: Callable[[object], Any], where: str) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise UserError(f"{where}: {name}: {str(value)[:80]!r}: {error}") from None

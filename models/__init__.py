"""Networks by name, images → features: `create("lenet++", …)`. The table of heads is in `heads`.

The classes are imported at their first use: code that only reads the table of heads does not wait for torch.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from models.fourier import through_frequency
    from models.lenet_pp import LeNetPP, SoftmaxHead, spread_directions

__all__ = ["NAMES", "LeNetPP", "SoftmaxHead", "create", "spread_directions", "through_frequency"]

NAMES = {"lenet++": "LeNetPP", "cnn": "LeNetPP"}  # "cnn" is its name on the command lines of other repositories


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "fourier" if name == "through_frequency" else "lenet_pp"
    return pkgutil.resolve_name(f"models.{module}:{name}")


def create(name: str, **settings: Any) -> nn.Module:
    """Return a new network; `settings` are the arguments of its class.

    Raises:
        ValueError: for a name that is not in `NAMES`.
    """
    if name not in NAMES:
        raise ValueError(f"model must be one of {', '.join(NAMES)}; got {name!r}")
    network: nn.Module = __getattr__(NAMES[name])(**settings)
    return network

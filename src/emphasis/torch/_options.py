"""The options of a loss, checked and resolved once.

Modes, integrals and tables, which take time or cannot be traced, are computed on the first use of a weighting and
cached: calling `emphasis_loss(logits, labels, DM(...))` in a loop computes them once.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor

from emphasis.compatibility.torch import disable_current_modes
from emphasis.errors import EmphasisTypeError
from emphasis.weighting import MaxMargin, Weighting
from emphasis.weighting.margin_table import MarginTable, margin_table
from emphasis.weighting.options import Normalization, Reduction, check_options, check_weights_fit


class Tables(NamedTuple):
    """`MarginTable.packed`, `compact` and `near` as tensors on a device."""

    packed: Tensor
    compact: Tensor | None
    near: Tensor | None


@dataclass(frozen=True)
class Options:
    """Resolved options; see `emphasis_loss` for their meaning.

    Attributes:
        log_normalizer: Logarithm of the integral under "integral", else 0.
        log_largest: Logarithm of the largest weight before reduction; inf if unbounded, -inf under "batch".
    """

    weighting: Weighting
    normalization: Normalization
    reduction: Reduction
    max_margin: float
    log_normalizer: float
    log_largest: float
    process_group: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Options:
        """Return `self`: options do not change, and a process group cannot be copied."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        if self.process_group is not None:
            raise EmphasisTypeError(
                "an EmphasisLoss with a process_group cannot be pickled: save its state_dict, and pass the group "
                "again where it is loaded"
            )
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("table", "_tables", "only_ratios_matter")
        }

    @cached_property
    def table(self) -> MarginTable | None:
        """The table of the weighting; None if the weights depend on other ranks or need the formula.

        Under "batch" it is in units of the largest weight, which may exceed any number: only ratios matter.
        """
        if self.process_group is not None:
            return None
        log_unit = self.weighting.log_peak if self.normalization == "batch" else self.log_normalizer
        if self.weighting.trust[0]:
            log_unit = 0.0  # the loss of the table must be -log p
        return margin_table(self.weighting, self.max_margin, log_unit)

    @cached_property
    def _tables(self) -> dict[tuple[torch.device, torch.dtype], Tables | None]:
        return {}

    def tables_for(self, device: torch.device, dtype: torch.dtype) -> Tables | None:
        """Return the table on a device; None if logits of this dtype need the formula itself.

        Raises:
            OverflowError: The weights do not fit into the dtype; see `check_range`.
        """
        try:
            return self._tables[device, dtype]
        except KeyError:
            self.check_range(dtype)
        table = self.table
        # MPS has no float64.
        if table is None or (dtype == torch.float64 and not table.is_exact) or device.type in ("mps", "meta"):
            tables = None
        else:
            with disable_current_modes():  # so that the cached tensors do not belong to an export
                compact, near = (
                    None if small is None else torch.from_numpy(small).to(device)
                    for small in (table.compact, table.near)
                )
                tables = Tables(torch.from_numpy(table.packed).to(device), compact, near)
        self._tables[device, dtype] = tables
        return tables

    @cached_property
    def only_ratios_matter(self) -> bool:
        """Whether the loss does not change when all class and sample weights are multiplied by the same number."""
        return self.process_group is None and (self.normalization == "batch" or self.reduction == "mean")

    @property
    def unbounded(self) -> bool:
        """Whether the weighting is unbounded, so that weights saturate."""
        return self.weighting.log_peak == math.inf

    def check_range(self, dtype: torch.dtype) -> None:
        """Check that `dtype` holds the weights, or under "batch" their logarithms; raise OverflowError otherwise."""
        largest = torch.finfo(dtype).max
        check_weights_fit(self.weighting, self.log_largest, dtype, largest, largest)


def make_options(
    weighting: Weighting,
    normalization: Normalization,
    reduction: Reduction,
    max_margin: MaxMargin,
    process_group: Any,
) -> Options:
    """Check and resolve options; raise ValueError, which names the option and what is allowed, for a bad one."""
    check_options(normalization, reduction)
    return _make_options(weighting, normalization, reduction, weighting.max_margin(max_margin), process_group)


@lru_cache(maxsize=256)  # limited, as a schedule makes a new weighting in every step
def _make_options(
    weighting: Weighting,
    normalization: Normalization,
    reduction: Reduction,
    max_margin: float,
    process_group: Any,
) -> Options:
    log_normalizer = weighting.log_normalizer if normalization == "integral" else 0.0
    log_largest = weighting.log_peak - log_normalizer
    if normalization == "batch":
        log_largest = -math.inf
    elif log_largest < math.log(torch.finfo(torch.float64).max) or log_largest == math.inf:
        weighting.prepare(max_margin)
    return Options(weighting, normalization, reduction, max_margin, log_normalizer, log_largest, process_group)


def per_example_options(options: Options) -> Options:
    """Return the options that treat each example by itself, without a mean and without other ranks."""
    return _make_options(options.weighting, options.normalization, "sum", options.max_margin, None)


_ids = itertools.count()
_registered: WeakValueDictionary[int, Options] = WeakValueDictionary()
_latest: WeakKeyDictionary[Options, int] = WeakKeyDictionary()
_pinned: dict[Options, int] = {}


def register_options(options: Options) -> int:
    """Return an id from which `options_from_id` returns these options, in this process and while they are in use."""
    options_id = _latest.get(options)
    if options_id is None or _registered.get(options_id) is not options:  # equal ones may be freed before these
        options_id = _latest[options] = next(_ids)
        _registered[options_id] = options
    return options_id


def pin_options(options: Options) -> int:
    """Return the id of options that only a compiled graph refers to; they are kept for the life of the process."""
    if options not in _pinned:
        _pinned[options] = register_options(options)
    return _pinned[options]


def options_from_id(options_id: int) -> Options:
    """Return the options that `register_options` or `pin_options` gave this id."""
    return _registered[options_id]

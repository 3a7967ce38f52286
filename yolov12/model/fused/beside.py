# SPDX-License-Identifier: AGPL-3.0-or-later
"""What our kernels want of a network's weights in another form: made once, kept beside the network and not in it, and made anew where weights change.

So a network's state, its pickles and its copies know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn


class _Kept(NamedTuple):
    state: tuple[tuple[int, int], ...]
    """Of each of the weights, where it was and how often it had been written to."""
    of: tuple[ref[Tensor], ...]
    """The weights: another one may come to lie where one was that is gone."""
    made: tuple[Tensor, ...]

    def is_of(self, weights: Sequence[Tensor], state: tuple[tuple[int, int], ...]) -> bool:
        return self.state == state and all(one() is weight for one, weight in zip(self.of, weights, strict=True))


_kept: WeakKeyDictionary[nn.Module, dict[str, _Kept]] = WeakKeyDictionary()


def made_from(
    module: nn.Module, name: str, weights: Sequence[Tensor], make: Callable[[], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """What `make` gives; what it gave before, where the weights are as they were.

    Args:
        module: whose life it shares.
        name: tells it from what else is made for the module.
        weights: what it is made from.
    """
    state = tuple((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights)
    of_module = _kept.setdefault(module, {})
    known = of_module.get(name)
    if known is None or not known.is_of(weights, state):
        known = of_module[name] = _Kept(state, tuple(map(ref, weights)), make())
    return known.made


def kept_for(network: nn.Module) -> list[Tensor]:
    """Tensors that the forward of a network reads and that are not in it: a CUDA graph that has them must keep them."""
    kept = chain.from_iterable(_kept[part].values() for part in network.modules() if part in _kept)
    return list(chain.from_iterable(one.made for one in kept))

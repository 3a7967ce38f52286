# SPDX-License-Identifier: AGPL-3.0-or-later
"""The optional `flash_attn` package: looked for once, when a case that it could serve comes by.

Two kinds are served: upstream's, and a build for head_dim 32 alone, which marks itself with `+hd32` in its version and
reads torch's deterministic mode itself. Importing either loads a large extension, so nothing happens at import of this
module.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_attend: Callable[..., Tensor] | None = None
_why_not_on: Callable[[tuple[int, int]], str | None] | None = None
"""The head_dim 32 build's own answer to why it has no code for a GPU: it would run SDPA there, as if it were the package."""
_version = ""
_missing: str | None = "not looked for yet"
_looked = False


def why_not(head_dim: int, capability: tuple[int, int] | None = None) -> str | None:
    """Why the package can not serve this head dimension on this GPU; None if it can. Looks for the package the first time.

    Args:
        capability: CUDA compute capability, (9, 0) say; None for no GPU in particular.
    """
    if not _looked:
        _look()
    if _missing is not None or not _is_hd32():
        return _missing
    if head_dim != 32:
        return f"version {_version} is built for head_dim 32, not {head_dim}"
    return None if capability is None or _why_not_on is None else _why_not_on(capability)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over (batch, tokens, heads, head_dim), forward and backward."""
    if _attend is None:
        raise RuntimeError(f"flash_attn: {_missing}")
    if _is_hd32():
        return _attend(q, k, v)
    return _attend(q, k, v, deterministic=torch.are_deterministic_algorithms_enabled())


def _is_hd32() -> bool:
    return "+hd32" in _version


def _look() -> None:
    global _attend, _why_not_on, _version, _missing, _looked
    _looked = True
    try:
        import flash_attn

        _attend, _version, _missing = flash_attn.flash_attn_func, str(flash_attn.__version__), None
        _why_not_on = getattr(flash_attn, "why_not", None)
    except ModuleNotFoundError as error:
        _missing = "not installed" if error.name == "flash_attn" else f"installed, but needs {error.name}"
    except (ImportError, OSError) as error:  # built against another torch or CUDA
        _missing = f"installed, but does not load: {error}"

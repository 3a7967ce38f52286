# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether somebody hooked himself onto a module's calls: then they must take place, one by one and by the module's own code."""

from __future__ import annotations

from torch import nn


def is_heard(module: nn.Module) -> bool:
    """In forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_heard_in_training(module: nn.Module) -> bool:
    """In forward or in backward."""
    return is_heard(module) or bool(module._backward_hooks or module._backward_pre_hooks)

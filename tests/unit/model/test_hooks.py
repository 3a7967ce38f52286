# SPDX-License-Identifier: AGPL-3.0-or-later
"""Each kind of hook that torch lets somebody register is seen, and gone when it is removed."""

from __future__ import annotations

import pytest
from torch import nn

from yolov12.model.hooks import is_heard, is_heard_in_training

FORWARD = ("register_forward_hook", "register_forward_pre_hook")
BACKWARD = ("register_full_backward_hook", "register_full_backward_pre_hook")


@pytest.mark.parametrize("register", [*FORWARD, *BACKWARD])
def test_a_hook_is_seen_while_it_is_there(register: str) -> None:
    module = nn.Identity()
    assert not is_heard_in_training(module)
    handle = getattr(module, register)(lambda *_: None)
    assert is_heard(module) is (register in FORWARD)
    assert is_heard_in_training(module)
    handle.remove()
    assert not is_heard_in_training(module)

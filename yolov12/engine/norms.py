# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether a run's batch norm takes its statistics over all ranks (`sync_bn`)."""

from __future__ import annotations

from torch import nn

from yolov12 import settings
from yolov12.distributed.sync_bn import synchronise
from yolov12.log import say


def synchronise_if_asked(model: nn.Module, ranks: int) -> bool:
    """Do so, and say it, if the user asks for it and there are several ranks. The average of the weights keeps upstream's modules.

    Args:
        model: that is trained, unwrapped; changed in place.
        ranks: of the run.
    """
    if not settings.current().sync_bn:
        return False
    if ranks < 2:
        say("sync_bn: there is one process, whose batch norm sees the whole batch anyway")
        return False
    say(
        f"sync_bn: {synchronise(model)} batch norms take their statistics over {ranks} ranks; they run as upstream's modules, without the fused "
        "operation, the memory plan and a CUDA graph, and out of memory ends the run"
    )
    return True

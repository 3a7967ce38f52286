# SPDX-License-Identifier: AGPL-3.0-or-later
"""What stands in for torch's DDP, whose reducer communicates during backward, before anyone can vote (distributed/reduce.py)."""

from __future__ import annotations

from typing import Any

from torch import nn

from yolov12.distributed.reduce import broadcast_from_first


class SameOnAllRanks(nn.parallel.DistributedDataParallel):
    """Stands in for DDP while ultralytics sets up: makes the weights equal on all ranks and hands back the bare model."""

    def __new__(cls, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        broadcast_from_first([tensor.data for tensor in (*module.parameters(), *module.buffers())])
        return module

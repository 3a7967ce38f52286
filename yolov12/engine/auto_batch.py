# SPDX-License-Identifier: AGPL-3.0-or-later
"""`batch=-1` and `batch=0.7`: the largest batch whose step fits into that share of the memory that is free, by the trace that plans use.

Upstream's AutoBatch (utils/autobatch.py) tries batches on the device and draws a line through their peaks; here nothing runs on it, and what
the plan does for nothing is counted: inputs are rebuilt, but no convolution is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from ultralytics.utils import DEFAULT_CFG, LOCAL_RANK
from ultralytics.utils.torch_utils import unwrap_model

from yolov12 import settings
from yolov12.distributed.vote import smallest, vote
from yolov12.engine import fit
from yolov12.engine.first_rank_first import first_rank_first
from yolov12.engine.layers import names_of
from yolov12.errors import PeerFailedError
from yolov12.log import say, warn
from yolov12.memory import budget
from yolov12.memory.failure import one_line
from yolov12.model.fused.norm import kernels_missing
from yolov12.seams import replaced

if TYPE_CHECKING:
    from yolov12.engine.trainer import YOLOv12Trainer

DEFAULT_SHARE = 0.6
"""Of the free memory, for batch=-1; upstream's."""
MOST_IMAGES = 1024
"""Over all ranks; upstream's."""
MOSAIC = 4
"""Images whose boxes may come into one."""


def batch_of(trainer: YOLOv12Trainer, measured_by_upstream: Callable[[], int]) -> int:
    """The batch over all ranks: the least of what fits on each, times the ranks. All ranks must call it.

    Args:
        trainer: whose model is on its device, and whose loaders are not built yet.
        measured_by_upstream: finds a batch for one device, for models that do not run on shapes alone.

    Raises:
        PeerFailedError: another rank failed at it.
    """
    ranks = max(trainer.world_size, 1)
    asked = f"batch={trainer.batch_size}"
    if trainer.device.type != "cuda":
        batch = max(DEFAULT_CFG.batch // ranks, 1) * ranks
        say(f"{asked}: {batch}, ultralytics' default: memory is not measured on {trainer.device.type}")
        return batch
    # Not under the vote: while the first rank reads the data set, the others are in another collective (first_rank_first.py).
    with first_rank_first(LOCAL_RANK), replaced(trainer.args, cache=False):
        dataset = trainer.build_dataset(trainer.data["train"], mode="train", batch=16)
    fits, reason, error = 0, "", None
    try:
        fits, reason = _on_this_rank(trainer, dataset, ranks, measured_by_upstream)
    except Exception as failed:  # noqa: BLE001  # whatever it is, the other ranks must hear of it before this one leaves
        error = failed
    verdict = vote(None if error is None else f"{type(error).__name__}: {error}", trainer.vote_group)
    if error is not None:
        raise error
    if not verdict.all_succeeded:
        raise PeerFailedError(f"training stopped because another process failed, {verdict.first()}")
    batch = ranks * smallest(fits, trainer.vote_group)
    of_ranks = f" ({ranks} ranks of {batch // ranks}, the least that fits on one)" if ranks > 1 else ""
    say(f"{asked}: {batch}{of_ranks}: {reason}")
    return batch


def _on_this_rank(
    trainer: YOLOv12Trainer, dataset: Any, ranks: int, measured_by_upstream: Callable[[], int]
) -> tuple[int, str]:
    """(images of this rank, reason)."""
    bound = max(min(len(dataset), MOST_IMAGES) // ranks, 1)
    share = trainer.batch_size if 0 < trainer.batch_size < 1 else DEFAULT_SHARE
    model, memory, current = unwrap_model(trainer.model), budget.read(trainer.device), settings.current()
    stride = trainer.stride
    imgsz = math.ceil(trainer.args.imgsz * (1 + trainer.args.multi_scale) / stride) * stride
    by_kernels = not trainer.args.compile and kernels_missing(trainer.device) is None
    limit, left_alone = memory.budget(1 - share), names_of(model, current.disable_mas_layers)
    try:
        found = fit.largest_batch(
            model,
            (imgsz, imgsz),
            trainer.amp_dtype or torch.float32,
            fixed_bytes=memory.allocated + fit.bytes_to_come(model),
            budget_bytes=limit,
            most_images=bound,
            most_boxes=most_boxes(dataset, trainer.args.mosaic),
            left_alone=left_alone,
            keeps_inputs=current.checkpoint == "0" or bool(trainer.args.compile) or (current.sync_bn and ranks > 1),
            loss_by_kernels=by_kernels,
        )
    except Exception as error:  # noqa: BLE001  # whatever a layer of the user's does on shapes alone, ultralytics' way is left
        warn(
            f"batch: the model does not run on shapes alone ({one_line(error)[:200]}); ultralytics' AutoBatch tries batches instead"
        )
        return min(measured_by_upstream(), bound), "the largest by ultralytics' AutoBatch"
    room = f"{share:g} of the free memory ({limit / 2**30:.2f} GiB with what is in use) at {imgsz}x{imgsz}"
    if not found:
        return 1, f"not one image fits into {room} without computing convolutions again"
    if found == bound:
        of_all = (
            f"the data set has {len(dataset)} images"
            if len(dataset) < MOST_IMAGES
            else f"no more than {MOST_IMAGES} are taken"
        )
        return found, f"{of_all}, and they fit into {room}"
    return found, f"the largest that fits into {room} with no convolution computed again"


def most_boxes(dataset: Any, mosaic: float) -> int:
    """Of one image of the data set, as augmentation may put several together; 0 where the labels are not known."""
    labels: Iterable[dict[str, Any]] = getattr(dataset, "labels", None) or ()
    return max((len(label["cls"]) for label in labels), default=0) * (MOSAIC if mosaic else 1)

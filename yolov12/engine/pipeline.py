# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which loader feeds the training: ultralytics', ours, or first the one and then the other (YOLOV12_DATA_PIPELINE)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ultralytics.utils import LOCAL_RANK

from yolov12 import settings
from yolov12.data import loader as ours
from yolov12.distributed.world import from_all
from yolov12.engine.data_wait import DataWait
from yolov12.engine.first_rank_first import first_rank_first
from yolov12.errors import UserError
from yolov12.log import say
from yolov12.seams import replaced

if TYPE_CHECKING:
    from yolov12.engine.trainer import YOLOv12Trainer

NAMES = ("cpu", "gpu")
"""What `data_pipeline=` asks for a loader by."""
AUTO_READERS = 4
"""From so many on `auto` takes our loader, also where they decode themselves: training from files was 4.7 times as fast as stock then (row
train_e2e_n_4cores of record train_e2e-reduced of 2026-11-30). With NVIDIA DALI it takes fewer: two were 11.6 times as fast (train_e2e-reduced-3)."""
WAIT_BOUND = 0.10
"""The part of the steps' time at ultralytics' loader above which `auto` says that ours may pay. Provisional: no record says where it begins to."""


def check_arguments(arguments: Mapping[str, Any], ranks: int) -> None:
    """Refuse arguments for which our loader can not do what was asked of it, before the run has a folder.

    Args:
        arguments: of the run, as far as they are known.
        ranks: that it has. Several make of rect=True, with a warning, rect=False.

    Raises:
        UserError: the user asked for ours, and with another argument for what it can not do.
    """
    if settings.current().data_pipeline != "gpu":
        return
    if arguments.get("rect") and ranks == 1:
        raise _contradiction(ours.RECT)
    if arguments.get("augmentations"):
        raise _contradiction(ours.AUGMENTATIONS)


def _contradiction(obstacle: ours.Obstacle) -> UserError:
    return UserError(
        f"data_pipeline=gpu and {obstacle.typed} contradict each other ({obstacle.reason}): leave one of them out"
    )


def train_loader(trainer: YOLOv12Trainer, path: str, batch: int, upstreams: Callable[[], Any]) -> Any:
    """The loader that training begins with. All ranks must call it.

    Args:
        trainer: whose run it is.
        path: of the training pictures.
        batch: images of a batch of this rank.
        upstreams: makes ultralytics' loader.

    Raises:
        UserError: the user asked for ours, and with another argument for what it can not do.
    """
    wanted, device = settings.current().data_pipeline, trainer.device.type
    if wanted == "auto" and device != "cuda":
        say(f"data pipeline: cpu (auto: there is no GPU, only {device})")
    if wanted == "cpu" or (wanted == "auto" and device != "cuda"):
        return upstreams()
    with first_rank_first(LOCAL_RANK), replaced(trainer.args, cache=False):
        dataset = trainer.build_dataset(path, "train", batch)
    obstacle = ours.obstacle(dataset, trainer.args)
    if wanted == "auto":
        choices = from_all(_choice(trainer, dataset, batch, obstacle), trainer.vote_group)
        takes_ours, reason = min(choices, key=lambda choice: choice[0])  # one that can not decides for all
        say(f"data pipeline: {'gpu' if takes_ours else 'cpu'} (auto: {reason})")
        return _ours_for(trainer, dataset, batch) if takes_ours else _over(dataset, trainer, upstreams)
    if obstacle is None:
        where = "on the GPU" if device == "cuda" else f"the same tensor code on {device}"
        say(f"data pipeline: gpu (asked for): pictures are augmented as tensors, {where}")
        return _ours_for(trainer, dataset, batch)
    if obstacle.typed:
        raise _contradiction(obstacle)
    say(f"data pipeline: gpu -> cpu: {obstacle.reason}")
    return _over(dataset, trainer, upstreams)


def _choice(trainer: YOLOv12Trainer, dataset: Any, batch: int, obstacle: ours.Obstacle | None) -> tuple[bool, str]:
    """(whether `auto` takes our loader, why), as far as this rank goes. Nothing of it hangs on a clock, so that a run repeats."""
    if obstacle is not None:
        return False, obstacle.reason
    size = ours.bytes_of_all(dataset, batch, trainer.device)
    if size is not None:
        return True, f"all {len(dataset)} pictures stay decoded on the GPU, {size / 2**30:.2f} GiB"
    more = f"more of {len(dataset)} pictures than the GPU keeps decoded"
    if trainer.args.cache:
        return False, f"cache={trainer.args.cache} is ultralytics', and there are {more}"
    readers = ours.readers(trainer.args, trainer.world.local_size)
    if readers >= AUTO_READERS:
        return True, f"{readers} read, and the GPU augments"
    if ours.gpu_decodes():
        return True, f"{readers} read, NVIDIA DALI is there to decode, and the GPU augments"
    return False, (
        f"{readers} would read and decode, as NVIDIA DALI is not installed, and there are {more}: ours is taken from {AUTO_READERS} on"
    )


def _over(dataset: Any, trainer: YOLOv12Trainer, upstreams: Callable[[], Any]) -> Any:
    """Ultralytics' loader over a data set that was built without a cache; it is built anew only if one was asked for."""
    if trainer.args.cache:
        return upstreams()
    return _around(dataset, trainer, upstreams)


def _around(dataset: Any, trainer: YOLOv12Trainer, upstreams: Callable[[], Any]) -> Any:
    """Ultralytics' loader over this very data set."""
    with replaced(trainer, build_dataset=lambda *_: dataset):
        return upstreams()


@contextmanager
def closed(trainer: YOLOv12Trainer) -> Iterator[None]:
    """However the block ends, so do the workers of the loaders that were made in it: a script may catch the error and train again."""
    try:
        yield
    finally:
        for name in ("train_loader", "test_loader"):
            loader: Any = getattr(trainer, name, None)
            if hasattr(loader, "close"):
                loader.close()


def undisturbed(loader: Any) -> AbstractContextManager[Any]:
    """Within it `loader` asks nothing of the GPU; ultralytics' never does."""
    return loader.undisturbed() if isinstance(loader, ours.PictureLoader) else nullcontext()


def name_of(loader: Any) -> str:
    """Which of `NAMES` asks for `loader`."""
    return "gpu" if isinstance(loader, ours.PictureLoader) else "cpu"


class Watch:
    """What happens to the choice of a loader while a run goes on, at the starts of its epochs.

    Where the loop is seen to wait for ultralytics' loader under `auto`, a line says that ours may pay; where a script changes transforms, which ours
    does not use, ultralytics' loader comes back.

    Args:
        trainer: whose loader it is.
        wait: of the run's loop.
    """

    def __init__(self, trainer: YOLOv12Trainer, wait: DataWait) -> None:
        self.trainer = trainer
        self.is_auto = settings.current().data_pipeline == "auto"
        self.wait: DataWait | None = None
        """None where there is nothing to tell, or it was told."""
        if self.is_auto and trainer.device.type == "cuda" and not isinstance(trainer.train_loader, ours.PictureLoader):
            self.wait = wait
        self.when_settled: Callable[[str], None] | None = None
        """Called once at the next epoch's start, with the name of the loader that the run then has."""

    def at_epoch_start(self) -> None:
        """Look, and say or do what is due. All ranks must call it.

        Raises:
            UserError: a callback changed the transforms of the data set after our loader, which does not use them, was asked for.
        """
        loader = self.trainer.train_loader
        if isinstance(loader, ours.PictureLoader) and any(from_all(loader.is_outdated(), self.trainer.vote_group)):
            if not self.is_auto:
                raise UserError(
                    "a script changed the data set's transforms, which our loader does not use: type data_pipeline=cpu"
                )
            self._change_back(loader)
        if self.when_settled is not None:
            self.when_settled(name_of(self.trainer.train_loader))
            self.when_settled = None
        if self.wait is None:
            return
        shares = [share for share in from_all(self.wait.share(), self.trainer.vote_group) if share is not None]
        if not shares:  # no rank has seen enough steps
            return
        seen = f"{max(shares):.0%} of the time of {self.wait.steps} steps was spent waiting for data"
        self.wait = None
        if max(shares) <= WAIT_BOUND:
            say(f"data pipeline: cpu: {seen}")
        elif obstacle := ours.obstacle(loader.dataset, self.trainer.args):  # by now: a callback may change transforms
            say(f"data pipeline: cpu ({obstacle.reason}), although {seen}")
        else:
            say(
                f"data pipeline: cpu, although {seen}; data_pipeline=gpu augments on the GPU, and leaves the cores to reading. "
                f"No record says yet whether that is faster with fewer than {AUTO_READERS} readers"
            )

    def _change_back(self, loader: ours.PictureLoader) -> None:
        """To ultralytics' loader over the same data set, with the transforms that it has now."""
        t = self.trainer
        say(
            f"data pipeline: gpu -> cpu from epoch {t.epoch + 1} on: a script changed the data set's transforms, which ours does not use"
        )
        loader.close()
        t.train_loader = _around(loader.dataset, t, t.upstreams_loader)  # ultralytics' own cache has to be left out


def _ours_for(trainer: YOLOv12Trainer, dataset: Any, batch: int) -> ours.PictureLoader:
    folder = settings.cache_dir() / "pictures" if trainer.args.cache else None
    plan = trainer.plan(len(dataset), batch)
    return ours.build(dataset, trainer.args, batch, plan, trainer.world.local_size, trainer.device, folder)

# SPDX-License-Identifier: AGPL-3.0-or-later
"""The same short training twice: alone, and beside a neighbour that takes half of the card in the middle of a step. Then the weights are compared.

On a GPU the neighbour is a process that takes the memory for real (neighbour.py). Without one the card is simulated (memory/card.py): the
training, the plans and the repeated step are real, what the card has and what a step needs on it are numbers.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import gc
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov12 import settings
from yolov12.errors import RetryableError, UserError
from yolov12.log import say
from yolov12.memory.history import Event
from yolov12.tools import demo

if TYPE_CHECKING:
    import torch

    from yolov12.memory.card import Card

SIZES: demo.Sizes = {
    "gpu": {"epochs": 3, "imgsz": 640, "batch": 16, "train_images": 96, "val_images": 16},
    "cpu": {"epochs": 3, "imgsz": 128, "batch": 8, "train_images": 24, "val_images": 8},
}
ROOM = 1.5
"""The card of the second training has so many times what a step needs: enough for all, and half of it only with recomputation."""
ENOUGH = 2**40
"""Bytes of the simulated card of the first training: more than any step needs, and still a number that reads as memory in its log."""


@dataclass(frozen=True)
class Trained:
    """What is left of one training."""

    weights: dict[str, torch.Tensor]
    """Of the model after its last update, not averaged and not rounded, on the CPU."""
    events: Sequence[Event]
    micro_batches: int
    """The most that a batch was cut into."""
    seconds: float


def main(args: Mapping[str, Any]) -> int:
    """Run both trainings and print what happened; 0 if the second survived and its weights are what was promised, else 1.

    Args:
        args: as of the tour (demo.py).

    Raises:
        UserError: an option that the demo does not have, a setting without the plans that it shows, or a folder that is in use or can not be written.
    """
    if (asked := settings.current().checkpoint) != "1":
        raise UserError(
            f"checkpoint={asked}: demo oom shows how plans change, and only checkpoint=1 plans: leave it out"
        )
    demo.choose(has_gpu=False, cores=1, args=args, sizes=SIZES)  # refuses wrong options before torch is imported
    if str(args.get("device")) not in ("None", "cpu") and not str(args["device"]).isdigit():
        raise UserError(f"device={args['device']}: demo oom trains on one GPU: type device=0, or leave it out")
    demo.refuse_unknown_layers()
    out = demo.make_folder(args.get("out"))
    import torch

    recipe = demo.choose(torch.cuda.is_available(), os.cpu_count() or 1, args, SIZES)
    is_on_gpu = torch.cuda.is_available() and str(recipe.device) != "cpu"
    say(demo.hardware(recipe))
    lines, is_as_promised = run(recipe, out, is_on_gpu)
    print("\n".join(["", *lines]))
    return 0 if is_as_promised else 1


def run(recipe: demo.Recipe, out: Path, is_on_gpu: bool) -> tuple[list[str], bool]:
    """Both trainings and their comparison: the summary, and whether it is as promised."""
    from yolov12.data import synth

    size_px = max(recipe.imgsz, demo.LEAST_PICTURE_PX)
    data = synth.write(out / "data", recipe.train_images, recipe.val_images, size_px, recipe.seed)
    card = functools.partial(_card, int(recipe.device or 0) if is_on_gpu else None)
    alone = card(None)
    say("\n--- alone ---")
    clean = train(recipe, data, out / "alone", alone)
    total, when = int(ROOM * alone.needed), steps(recipe) // 2
    with contextlib.closing(card(total, when)) as beside:
        say("\n--- beside a neighbour ---")
        try:
            squeezed = train(recipe, data, out / "beside", beside)
        except RetryableError as error:
            return [f"did not survive: {error}"], False
    verdict, is_as_promised = judge(clean, squeezed, when)
    simulated = "" if is_on_gpu else "simulated "
    return [
        f"alone    {clean.seconds:6.1f} s  {recipe.epochs} epochs, {steps(recipe)} steps; a step needs {_gib(alone.needed)} GiB",
        f"beside   {squeezed.seconds:6.1f} s  the same on a {simulated}card with {_gib(total)} GiB",
        _line("neighbour", when, f"a {simulated}process took {_gib(beside.taken)} GiB of it and kept them"),
        *(_line(event.kind, event.step, event.what) for event in squeezed.events),
        f"weights            {verdict}",
        f"{demo.INDENT}memory.csv and memory.png are in {demo.typed(out / 'beside')}",
    ], is_as_promised


def _line(kind: str, steps_before: int, what: str) -> str:
    return f"{kind:9} step {steps_before + 1:>2}  {what}"


def train(recipe: demo.Recipe, data: Path, folder: Path, card: Card) -> Trained:
    """A training on that card, deterministic, into `folder`."""
    import torch

    from yolov12 import YOLO
    from yolov12.engine.trainer import YOLOv12Trainer

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    started_s = time.monotonic()
    model = YOLO(demo.MODEL)
    model.train(
        trainer=functools.partial(YOLOv12Trainer, card=card),
        data=str(data),
        project=str(folder.parent),
        name=folder.name,
        exist_ok=True,
        imgsz=recipe.imgsz,
        device=recipe.device,
        deterministic=True,
        **demo.training_arguments(recipe),
    )
    trainer = model.trainer
    return Trained(
        weights={name: tensor.detach().cpu().clone() for name, tensor in trainer.model.state_dict().items()},
        events=trainer.history.events,
        micro_batches=most_micro_batches(folder / "memory.csv"),
        seconds=time.monotonic() - started_s,
    )


def steps(recipe: demo.Recipe) -> int:
    """Of a whole training."""
    return recipe.epochs * -(-recipe.train_images // recipe.batch)


def most_micro_batches(table: Path) -> int:
    """The most that a batch of the run was cut into, from its memory.csv."""
    with table.open(newline="", encoding="utf-8") as file:
        return max(int(row["micro_batches"]) for row in csv.DictReader(file))


def judge(clean: Trained, squeezed: Trained, arrival: int) -> tuple[str, bool]:
    """What is said of the weights, and whether it is what was promised: equal bits unless the batch was cut or the images were shrunk.

    Args:
        arrival: steps before the neighbour came.
    """
    names = [name for name in clean.weights if not clean.weights[name].equal(squeezed.weights[name])]
    if not any(event.kind == "plan" and event.step >= arrival for event in squeezed.events):
        return "nothing is shown: the neighbour changed no plan", False
    if not names:
        return f"ok: all {len(clean.weights)} tensors are equal to the bit", True
    name, largest = _largest_difference(clean.weights, squeezed.weights, names)
    told = f"{len(names)} of {len(clean.weights)} tensors differ, by at most {largest:.1e} ({name})"
    if squeezed.micro_batches > 1:
        return (
            f"{told}: batch norm saw {squeezed.micro_batches} micro-batches, whose statistics are not those of the whole batch",
            True,
        )
    if any(event.kind == "smaller images" for event in squeezed.events):
        return f"{told}: the images were made smaller", True
    return f"NOT as promised: {told}, and only recomputation was used", False


def _largest_difference(
    one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], names: Sequence[str]
) -> tuple[str, float]:
    found = {name: float((one[name].double() - other[name].double()).abs().max()) for name in names}
    largest = max(found, key=lambda name: found[name])
    return largest, found[largest]


def _card(gpu: int | None, total: int | None, neighbour_at: int | None = None) -> Any:
    """The card of a training, simulated without a GPU; `total=None`: one that has enough."""
    if gpu is None:
        from yolov12.memory.card import SimulatedCard

        return SimulatedCard(ENOUGH if total is None else total, neighbour_at)
    import torch

    from yolov12.tools.neighbour import CardBesideNeighbour

    return CardBesideNeighbour(torch.device("cuda", gpu), total, neighbour_at)


def _gib(size: int) -> str:
    return f"{size / 2**30:.3f}"

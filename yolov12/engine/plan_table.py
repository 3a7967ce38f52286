# SPDX-License-Identifier: AGPL-3.0-or-later
"""A plan as a short table for the log: what each stage of the model computes again, what that frees and what it costs."""

from __future__ import annotations

from torch import nn

from yolov12.engine.known import Known
from yolov12.engine.layers import stage_of
from yolov12.memory.plan import Plan

HEADER = ("", "convolutions", "run again", "inputs rebuilt", "GiB freed")


def lines(model: nn.Module, known: Known, plan: Plan) -> list[str]:
    """One line for each stage and one for all; none if nothing is computed again."""
    if not plan.dropped:
        return []
    stages = [stage_of(model, block.name.removesuffix(" input")) for block in known.profile.blocks]
    groups = {stage: [i for i, found in enumerate(stages) if found == stage] for stage in dict.fromkeys(stages)}
    if len(groups) > 1:
        groups["all"] = list(range(len(stages)))
    rows: list[tuple[str, ...]] = [(*HEADER, "ms a step" if known.measured else "of forward, about")]
    rows += [_row(stage, positions, known, plan) for stage, positions in groups.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _row(stage: str, positions: list[int], known: Known, plan: Plan) -> tuple[str, ...]:
    blocks = known.profile.blocks
    dropped = [i for i in positions if i in plan.dropped]
    inputs = sum(blocks[i].is_input for i in dropped)
    convolutions = sum(not blocks[i].is_input for i in positions)
    freed = float(known.profile.share_of(plan.parts)) * sum(blocks[i].kept_bytes for i in dropped)
    cost = sum(blocks[i].cost for i in dropped)
    total = sum(block.cost for block in blocks) or 1.0
    return (
        stage,
        str(convolutions),
        str(len(dropped) - inputs),
        str(inputs),
        f"{freed / 2**30:.2f}",
        f"{cost:.1f}" if known.measured else f"{100 * cost / total:.0f} %",
    )


def headline(known: Known, plan: Plan, budget_bytes: int) -> str:
    """The line above the table: what is expected, what there is, and by which numbers."""
    images, _, height, width = known.shape
    parts = f" in {plan.parts} micro-batches" if plan.parts > 1 else ""
    forward = f"; forward's convolutions take {known.measured.forward_ms:.1f} ms" if known.measured else ""
    kept = "" if plan.dropped else "; everything is kept"
    return (
        f"batch {images} at {height}x{width}{parts} needs {plan.peak_bytes / 2**30:.2f} of {budget_bytes / 2**30:.2f} GiB "
        f"({known.why}){forward}{kept}"
    )

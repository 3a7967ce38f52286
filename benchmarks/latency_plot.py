# SPDX-License-Identifier: AGPL-3.0-or-later
"""The picture of a record of `latency`: milliseconds over the batch, a line for each size, a panel for each kind of request.

Bars of factors, as the other records have them, would be more than a hundred. matplotlib is imported where the picture is drawn only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

NAME = re.compile(r"latency_(?P<kind>[a-z]+)_(?P<size>[a-z])_b(?P<batch>\d+)")
COLOURS = {"n": "#2f6f4f", "s": "#2b6ca3", "m": "#8a5a9e", "l": "#b4532a", "x": "#333333"}
SIDES = {"stock": {"linestyle": ":", "marker": ""}, "ours": {"linestyle": "-", "marker": "."}}
TITLES = {
    "network": "network alone (NMS excluded)",
    "boxes": "network to boxes (NMS included)",
    "request": "picture to boxes",
}


class Point(NamedTuple):
    """One size, one side, one batch of one kind of request."""

    batch: int
    p50_ms: float
    p99_ms: float | None


def lines(
    content: Mapping[str, Any], table: Iterable[Mapping[str, str]]
) -> Iterator[tuple[str, str, str, list[Point]]]:
    """(kind, size, side, its points by batch), in the order of the record; without those that have no value.

    Args:
        content: the record: its values are p50s.
        table: the lines of the CSV beside it, which have p99; may be empty.
    """
    slowest: dict[tuple[str, str], list[float]] = {}
    for line in table:
        slowest.setdefault((line["row"], line["side"]), []).append(float(line["p99_ms"]))
    found: dict[tuple[str, str, str], list[Point]] = {}
    for row in content["rows"]:
        name = NAME.fullmatch(row["name"])
        for side in SIDES if name else ():
            if row[side]:
                p99 = slowest.get((row["name"], side))
                point = Point(int(name["batch"]), median(row[side]), median(p99) if p99 else None)
                found.setdefault((name["kind"], name["size"], side), []).append(point)
    for (kind, size, side), points in found.items():
        yield kind, size, side, sorted(points)


def draw(content: Mapping[str, Any], table: Iterable[Mapping[str, str]], path: Path, digest: str) -> None:
    """Write the picture; `path` says the format by its ending, and an SVG carries the record's digest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    with matplotlib.rc_context({"svg.hashsalt": "yolov12", "font.size": 9, "font.family": "DejaVu Sans"}):
        figure, panels = pyplot.subplots(1, len(TITLES), figsize=(11, 4.2), layout="constrained", sharey=True)
        for kind, size, side, points in lines(content, table):
            panel, batches = panels[list(TITLES).index(kind)], [point.batch for point in points]
            panel.plot(
                batches, [point.p50_ms for point in points], color=COLOURS[size], label=f"{size} {side}", **SIDES[side]
            )
            tails = [point for point in points if point.p99_ms is not None]
            panel.fill_between(
                [point.batch for point in tails],
                [point.p50_ms for point in tails],
                [point.p99_ms for point in tails],
                color=COLOURS[size],
                alpha=0.15 if side == "ours" else 0.06,
                linewidth=0,
            )
        for panel, title in zip(panels, TITLES.values(), strict=True):
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            panel.set_title(title, loc="left", fontsize=9)
            panel.set_xlabel("pictures of a request")
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("ms, p50; shaded up to p99")
        handles = {
            label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        panels[-1].legend(handles.values(), handles.keys(), fontsize=7, frameon=False, ncols=2)
        figure.suptitle(f"latency: {content['device']}, {content['date'][:10]}", x=0.01, ha="left", fontsize=10)
        metadata = {"Date": None, "Description": digest} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=110)
        pyplot.close(figure)

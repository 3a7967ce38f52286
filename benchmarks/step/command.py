# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 bench step model= batch= imgsz= data=`: reads what was typed, runs, prints, writes the traces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov12 import arguments, early, folders, settings
from yolov12.errors import ExitError, UserError
from yolov12.log import say

if TYPE_CHECKING:
    from benchmarks.step.subject import Subject
    from benchmarks.step.table import Report

OWN_KEYS: dict[str, Any] = {"steps": 10, "out": None}
"""Steps under the profiler; the folder for the traces, runs/bench/step by default."""
NEEDED_TO_SEE_A_GRAPH = 24
"""Steps after which a step is captured and judged (yolov12/engine/graph.py)."""
EAGER, GRAPH = "step.json.gz", "step-graph.json.gz"


def main(words: list[str]) -> int:
    """0: done; an error's exit code, with one sentence."""
    try:
        parsed = arguments.parse(words, arguments.ultralytics_defaults() | OWN_KEYS)
        options = settings.apply_command_line(parsed.options)
        own = {key: options.pop(key, default) for key, default in OWN_KEYS.items()}
        if not isinstance(own["steps"], int) or own["steps"] < 1:
            raise UserError(f"steps={own['steps']}: type a whole number from 1 on, such as steps=10")
        early.check(options)
        out = Path(own["out"] or folders.runs_folder()[0] / "bench" / "step")
        folders.check_writable(out, argument="out")
        out.mkdir(parents=True, exist_ok=True)
        _run(options, own["steps"], out)
    except ExitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(options: dict[str, Any], steps: int, out: Path) -> None:
    import torch

    from benchmarks.step import subject
    from yolov12 import YOLO
    from yolov12.data.synth import bundled
    from yolov12.model.names import resolve

    path = resolve(str(options.pop("model", None) or "yolov12n.yaml"))
    batch, imgsz = options.get("batch", 64), options.get("imgsz", 640)
    asked = options.get("device")
    device = str("cpu" if asked is None and not torch.cuda.is_available() else asked or "0").removeprefix("cuda:")
    if device != "cpu" and not device.isdigit():
        raise UserError(f"device={asked}: bench step looks at one process: type device=0, or device=cpu")

    model = YOLO(path)
    if model.task != "detect":
        raise UserError(f"model={Path(path).name} is a model for {model.task}: bench step looks at detection")

    def look(found: Subject) -> None:
        on = "the CPU" if found.device.type == "cpu" else torch.cuda.get_device_name(found.device)
        dtype = str(found.dtype).removeprefix("torch.")
        title = f"{Path(path).name}, batch {found.images} at {imgsz} px, {dtype}, on {on}"
        _show(_looked_at(found, steps, out, title), out)

    if data := options.get("data"):
        typed = {"data": str(bundled()) if data == "synth" else data, "model": path, "batch": batch, "imgsz": imgsz}
        subject.on_data({**options, **typed, "device": device}, look)
        return
    if not isinstance(batch, int) or batch < 1 or not isinstance(imgsz, int):
        raise UserError(f"batch={batch} imgsz={imgsz}: without data= type whole numbers, such as batch=64 imgsz=640")
    place = torch.device("cpu" if device == "cpu" else f"cuda:{device}")
    look(subject.on_drawn_batch(model.model.yaml, batch, imgsz, place))


def _looked_at(subject: Subject, steps: int, out: Path, title: str) -> Report:
    from benchmarks.step import ceilings, collect
    from benchmarks.step.table import Report

    has_gpu = subject.device.type == "cuda"
    best = ceilings.measured(subject.device, subject.dtype)
    say("step: without a CUDA graph")
    collect.warm(subject, least_steps=20 if has_gpu else 1)
    step_ms = collect.timed_ms(subject, steps)
    work = collect.counted(subject)
    profile = collect.profiled(subject, steps, out / EAGER)
    graph_ms = graph_profile = None
    no_graph = "they are for GPUs" if not has_gpu else "the step would not have one (compile=)"
    if has_gpu and subject.graph is not None:
        say("step: with a CUDA graph, where it is kept")
        subject.step.graph = subject.graph
        collect.warm(subject, NEEDED_TO_SEE_A_GRAPH)
        no_graph = "it was not kept; the line above says why"
        if subject.graph.captured is not None:
            graph_ms = collect.timed_ms(subject, steps)
            graph_profile = collect.profiled(subject, steps, out / GRAPH)
    return Report(
        title=title,
        batches=subject.words,
        has_gpu=has_gpu,
        is_drawn=subject.is_drawn,
        step_ms=step_ms,
        profile=profile,
        work=work,
        ceilings=best,
        graph_ms=graph_ms,
        graph_profile=graph_profile,
        no_graph=no_graph,
    )


def _show(report: Report, out: Path) -> None:
    from benchmarks.step import table

    print("\n".join(table.lines(report)))
    traces = [EAGER] + [GRAPH] * (report.graph_profile is not None)
    print(
        f"\ntraces, for ui.perfetto.dev or chrome://tracing: {' '.join(str(out / name) for name in traces)}", flush=True
    )

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether ours learns as well as stock: the same training with the same seed on both sides, accuracy of ours minus that of stock.

There are two data sets. BCCD, from scratch for as many epochs as map_budget takes; and drawn shapes (yolov12/data/synth.py), so many of them that
stock scores 0.35 to 0.60 mAP50-95 in ten epochs, where a difference has room in both directions. The note says whether it did. Ours has
data_pipeline=gpu, whose random numbers are not stock's: equal seeds pair the runs, and do not make them equal.

The four runs of a seed go side by side on one GPU, with those of further seeds where its memory has room, so nothing here is a timing. On a
machine that is lent for minutes the seeds are spread over several calls: with MAP_PAIRED_RUNS=FILE each call makes the runs of as many as go side by
side, and what is finished waits in the file for the rest.

mAP50-95 is that of each trainer's own final validation. AP of small objects is COCO's, by faster-coco-eval, from what a further validation of the
same weights wrote as json (ap_small.py). BCCD's val split has few small objects, so that its share of this row is mostly noise; the notes say
how many there are.

Within means, and was written down before the first measurement: the mean of the differences, over all seeds and both data sets alike, is at least
-0.005. The standard error of that mean stands in the note, and is no part of the rule.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from benchmarks import ap_small, child, harness, kept_runs, record, sides, system, training
from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.kept_runs import Key

LEAST = -0.005
"""Smallest mean of differences that is within."""
STOCK_ON_SYNTH = (0.35, 0.60)
"""mAP50-95 between which the drawn set tells sides apart."""
SIDES, SETS = ("stock", "ours"), ("bccd", "synth")
KINDS = tuple(f"{side}_{data}" for data in SETS for side in SIDES)
SEED_GIB = 34
"""GPU memory that the four runs of a seed take at most: stock's on BCCD has kept 7.1 GiB (bccd_wall), its validation some more."""
SYNTH_PX = 320
"""Side of a drawn picture: its small shapes are small by COCO's measure, which they would not be at 640."""
METRICS = {"map_paired": ("map50_95", "mAP", "mAP50-95"), "ap_small_paired": ("ap_small", "AP", "AP of small objects")}
"""Of each row: the field of `Result`, the unit, and words."""
KEPT = os.environ.get("MAP_PAIRED_RUNS", "")


def _note(words: str, parameters: Mapping[str, Any]) -> str:
    sets = _sets(parameters)
    over = "both data sets" if set(sets) == set(SETS) else f"{' and '.join(sets)} alone"
    return f"{words}, ours minus stock: mean over seeds and {over}"


ROWS = tuple(
    row
    for name, (_, unit, words) in METRICS.items()
    for row in (
        Row(name, unit, "higher", partial(_note, words)),
        *(Row(f"{name}_{kind}", unit, "higher", f"mean {words}") for kind in KINDS),
    )
)


class Result(NamedTuple):
    """What one training run found."""

    map50_95: float
    ap_small: float | str
    """Or why there is none."""
    small: int
    """How many small objects the val split has."""
    declared: dict[str, Any]


def prepare(parameters: Mapping[str, Any], scratch: Path) -> None:
    """Draw the shapes once, if they are asked for; each run copies them, as it does BCCD.

    Raises:
        BenchmarkError: a data set that there is not.
    """
    from yolov12.data import synth

    if "bccd" in _sets(parameters):
        training.require_dataset(parameters, scratch)
    if "synth" in _sets(parameters):
        synth.write(scratch / "synth", parameters["pictures"], parameters["val_pictures"], imgsz=SYNTH_PX, seed=0)


def run_side(job: Job) -> Measured:
    """The runs of as many seeds as the GPU has room for, and so on; only the first of these where finished runs are kept."""
    kept, module = job.parameters["kept"], "benchmarks.programs.map_paired"
    asked = _asked(job)
    gib = SEED_GIB * len({kind for kind, _ in asked}) / len(KINDS)
    runs = kept_runs.run_all(module, asked, kept, job.scratch, kept_runs.seeds_that_fit(gib))
    return compared({key: run.failure or Result(*run.result) for key, run in runs.items()})


def _asked(job: Job) -> dict[Key, dict[str, Any]]:
    """What each run is to do. Nothing of one data set is asked of the other's runs, which can then be kept when it changes."""
    parameters = job.parameters
    shared = {key: parameters[key] for key in ("model", "batch", "imgsz", "amp", "workers", "device")}
    shared["evaluator"] = ap_small.evaluator()  # a run that was kept without it has no AP of small objects
    of_set = {
        "bccd": {"data": parameters["data"], "epochs": parameters["bccd_epochs"]},
        "synth": {
            "data": str(job.scratch / "synth"),
            "epochs": parameters["synth_epochs"],
            "pictures": parameters["pictures"],
            "val_pictures": parameters["val_pictures"],
        },
    }
    return {
        (f"{side}_{data}", seed): {**shared, **of_set[data], "side": side, "seed": seed}
        for seed in range(parameters["first_seed"], parameters["first_seed"] + parameters["seeds"])
        for data in _sets(parameters)
        for side in SIDES
    }


def _sets(parameters: Mapping[str, Any]) -> list[str]:
    """The data sets that are asked for.

    Raises:
        BenchmarkError: one that there is not.
    """
    sets: list[str] = parameters["sets"].split(",")
    if not set(sets) <= set(SETS):
        raise harness.BenchmarkError(f"--set sets={parameters['sets']}: expected some of {','.join(SETS)}")
    return sets


def compared(results: Mapping[Key, Result | str]) -> Measured:
    """The rows from the result, or the reason of its failure, of each ("side_set", seed)."""
    good = {key: found for key, found in results.items() if isinstance(found, Result)}
    declared: dict[str, dict[str, Any]] = {}
    for (kind, _), found in sorted(good.items(), key=lambda item: KINDS.index(item[0][0])):  # stock's first
        declared.setdefault(kind.partition("_")[0], found.declared)
    measured = Measured(declared=declared.get("ours", dict.fromkeys(record.DECLARED)))
    for row, (field, _, _) in METRICS.items():
        scores = {key: found if isinstance(found, str) else getattr(found, field) for key, found in results.items()}
        asked = [kind for kind in KINDS if any(of == kind for of, _ in results)]
        for kind in asked:
            _average(f"{row}_{kind}", {seed: score for (of, seed), score in scores.items() if of == kind}, measured)
        failed = [kind for kind in asked if f"{row}_{kind}" in measured.failed]
        measured.failed |= {f"{row}_{kind}": "not asked for, by --set sets" for kind in KINDS if kind not in asked}
        if failed:
            measured.failed[row] = f"{failed[0]}: {measured.failed[f'{row}_{failed[0]}']}"
        else:
            measured.values[row], measured.notes[row] = _difference(scores)
    _add_to_notes(good, declared, measured)
    return measured


def _average(row: str, scores: Mapping[int, float | str], measured: Measured) -> None:
    """The mean over seeds, or why some of them have no score."""
    without: dict[str, list[str]] = {}
    for seed, score in scores.items():
        if isinstance(score, str):
            without.setdefault(score, []).append(str(seed))
    if without:
        measured.failed[row] = "; ".join(f"seed {', '.join(seeds)}: {reason}" for reason, seeds in without.items())
        return
    numbers = {seed: float(score) for seed, score in scores.items()}
    measured.values[row] = mean(numbers.values())
    measured.notes[row] = ", ".join(f"seed {seed}: {score:.4f}" for seed, score in numbers.items())


def _difference(scores: Mapping[Key, Any]) -> tuple[float, str]:
    """(ours minus stock, the mean over all pairs; what to say of it) from numbers alone."""
    pairs = [(data, seed) for data in SETS for kind, seed in scores if kind == f"ours_{data}"]
    differences = [scores[f"ours_{data}", seed] - scores[f"stock_{data}", seed] for data, seed in pairs]
    found = mean(differences)
    each = ", ".join(
        f"{data} {seed}: {difference:+.4f}" for (data, seed), difference in zip(pairs, differences, strict=True)
    )
    error = f"{stdev(differences) / math.sqrt(len(differences)):.4f}" if len(pairs) > 1 else "unknown"
    verdict = f"{'within' if found >= LEAST else 'NOT WITHIN'}, which is at least {LEAST}; "
    if {data for data, _ in pairs} != set(SETS):
        verdict = ""  # the rule is about both sets
    count = f"{len(pairs)} pair{'s' * (len(pairs) > 1)}"
    return found, f"{verdict}standard error {error} over {count}; set and seed {each}"


def _add_to_notes(good: Mapping[Key, Result], declared: Mapping[str, dict[str, Any]], measured: Measured) -> None:
    """What else a reader must know: settings that differ, how many objects are small, whether the drawn set tells sides apart."""
    more = {"map_paired": harness.differences(declared) if len(declared) == len(SIDES) else ""}
    more |= {f"ap_small_paired_{kind}": f"{found.small} small objects in val" for (kind, _), found in good.items()}
    least, most = STOCK_ON_SYNTH
    score = measured.values.get("map_paired_stock_synth", least)
    if not least <= score <= most:
        more["map_paired_stock_synth"] = (
            f"NOT BETWEEN {least} and {most}: take {'fewer' if score > most else 'more'} with --set pictures=N"
        )
    for row, words in more.items():
        if row in measured.values and words:
            measured.notes[row] += f"; {words}"


def train(asked: dict[str, Any]) -> Result:
    """One run, in this process.

    Raises:
        BenchmarkError: it was no run of the batch that was asked for.
    """
    folder, side = Path(asked["folder"]), asked["side"]
    watch = training.Watch(Job(side, asked, (), folder, time.monotonic()))
    model = training.yolo_class(side)(asked["model"])
    watch.attach(model)
    shared = {key: asked[key] for key in ("batch", "imgsz", "workers", "device")}
    shared |= {"data": training.data_yaml(folder), "project": str(folder / "runs"), "plots": False}
    map50_95 = model.train(
        optimizer="SGD",
        lr0=0.01,
        seed=asked["seed"],
        epochs=asked["epochs"],
        amp=asked["amp"] if asked["device"] != "cpu" else False,
        **shared,
        **({"data_pipeline": "gpu"} if side == "ours" else {}),
    ).box.map
    batch = model.trainer.batch_size  # stock halves it when it is out of memory, and says so only in its log
    if batch != asked["batch"]:
        raise harness.BenchmarkError(f"trained with batch {batch} instead of {asked['batch']}")
    truth = ap_small.ground_truth(Path(shared["data"]))
    small = ap_small.count_small(truth)
    found = _ap_small(model, shared, truth) if small else "no object of the val split is small"
    sides.check(side, sys.modules, sys.meta_path)
    return Result(float(map50_95), found, small, watch.declared)


def _ap_small(model: Any, shared: Mapping[str, Any], truth: Mapping[str, Any]) -> float | str:
    """Of what a validation of the trained weights finds, or why it can not be told."""
    if not ap_small.evaluator():
        return ap_small.NOT_INSTALLED
    model.val(save_json=True, name="json", **shared)
    predictions = Path(shared["project"]) / "json" / "predictions.json"
    return ap_small.ap_small(truth, ap_small.detections(truth, predictions))


BENCHMARK = Benchmark(
    name="map_paired",
    claim="ours learns as well as stock: yolov12n from scratch on BCCD and on drawn shapes, the same seeds on both sides",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    sides=("ours",),  # its process starts those of both
    parameters=training.RECIPE
    | {
        "pictures": 800,
        "val_pictures": 300,
        "bccd_epochs": 60,
        "synth_epochs": 10,
        "workers": max(1, system.cores() // 4),
        "seeds": 3,
        "first_seed": 0,
        "sets": ",".join(SETS),
        "kept": KEPT,
    },
    prepare=prepare,
    repeats=1,
    timeout_s=1800,
)


if __name__ == "__main__":
    child.answer(train)

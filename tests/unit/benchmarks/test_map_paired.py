# SPDX-License-Identifier: AGPL-3.0-or-later
"""map_paired: equal seeds of both sides on two data sets."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from benchmarks import child, harness, kept_runs, training
from tests.unit.benchmarks.programs import job, run

MAP_PAIRED = harness.discover()["map_paired"].run_side.__globals__


@pytest.mark.slow  # eight whole training processes, four of them at a time
@pytest.mark.timeout(900)
def test_equal_seeds_of_both_sides_are_paired_over_both_data_sets(photos, tmp_path):
    small = {"bccd_epochs": 1, "synth_epochs": 1, "pictures": 4, "val_pictures": 2, "imgsz": 64, "batch": 4}
    small |= {"workers": 0, "device": "cpu", "data": photos, "seeds": 2, "kept": tmp_path / "runs.json"}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    rows = [row.name for row in harness.discover()["map_paired"].rows if row.name.startswith("map_paired")]
    run(tmp_path / "first", "map_paired", *settings, expected=1)
    content = run(tmp_path / "second", "map_paired", *settings, "--rows", ",".join(rows))
    difference, *means = [row["ours"][0] for row in content["rows"]]
    assert difference == pytest.approx(((means[1] - means[0]) + (means[3] - means[2])) / 2)
    assert re.search(r"bccd 0: \S+, bccd 1: \S+, synth 0: \S+, synth 1: \S+", content["rows"][0]["note"])
    assert content["declared"]["ours"]["optimizer"] == "SGD"


def paired(
    stock: list[float], ours: list[float], small: float | str = 0.1, our_settings: dict | None = None
) -> harness.Measured:
    """What is said of these mAP of seeds 0, 1, ..., the same on both data sets."""
    results = {}
    for side, maps in (("stock", stock), ("ours", ours)):
        for seed, value in enumerate(maps):
            settings = our_settings if side == "ours" and our_settings else {"deterministic": True}
            found = MAP_PAIRED["Result"](value, small, 7, settings)
            results |= {(f"{side}_{data}", seed): found for data in ("bccd", "synth")}
    return MAP_PAIRED["compared"](results)


def test_ours_is_within_down_to_half_a_hundredth_below_stock():
    near, below = paired([0.5, 0.5], [0.498, 0.493]), paired([0.5, 0.5], [0.498, 0.491])
    assert near.values["map_paired"] == pytest.approx(-0.0045)
    assert near.notes["map_paired"].startswith("within, which is at least -0.005; standard error 0.0014 over 4 pairs")
    assert below.notes["map_paired"].startswith("NOT WITHIN")
    assert near.values["map_paired_ours_bccd"] == pytest.approx(0.4955)
    assert "7 small objects in val" in near.notes["ap_small_paired_stock_bccd"]


def test_one_data_set_alone_is_compared_where_only_that_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(kept_runs, "_start", lambda module, folder, asked, gpu: folder.name)
    monkeypatch.setattr(child, "finished", lambda name: child.Run([], [0.5 + 0.01 * ("ours" in name), 0.1, 7, {}]))
    needed: list[float] = []
    monkeypatch.setattr(kept_runs, "seeds_that_fit", lambda gib: needed.append(gib) or 4)
    program, asked = MAP_PAIRED["run_side"], {"kept": "", "data": "photos", "seeds": 4, "sets": "bccd"}
    asked["first_seed"] = 15
    measured = program(job("map_paired", "ours", (), tmp_path, **asked))
    assert measured.values["map_paired"] == pytest.approx(0.01)
    assert "over 4 pairs; set and seed bccd 15: +0.0100, bccd 16:" in measured.notes["map_paired"]
    assert "ithin" not in measured.notes["map_paired"], "the rule is about both sets"
    assert needed == [MAP_PAIRED["SEED_GIB"] / 2]
    alone = program(job("map_paired", "ours", (), tmp_path / "alone", **{**asked, "seeds": 1}))
    assert "standard error unknown over 1 pair;" in alone.notes["map_paired"]
    assert measured.failed["map_paired_stock_synth"] == "not asked for, by --set sets"


def test_shapes_are_drawn_only_where_they_are_asked_for_and_an_unknown_set_is_refused_before(photos, tmp_path):
    asked = {"pictures": 1, "val_pictures": 1, "sets": "bccd", "data": photos}
    (scratch := tmp_path / "scratch").mkdir()
    MAP_PAIRED["prepare"](asked, scratch)
    assert not list(scratch.iterdir())
    with pytest.raises(harness.BenchmarkError, match="--set sets=synth,coco: expected some of bccd,synth"):
        MAP_PAIRED["prepare"]({**asked, "sets": "synth,coco"}, scratch)
    assert not list(scratch.iterdir())
    MAP_PAIRED["prepare"]({**asked, "sets": "synth"}, scratch)
    assert (scratch / "synth/data.yaml").is_file()


@pytest.mark.parametrize(
    ("score", "words"), [(0.2, "take more with"), (0.5, ""), (0.8, "NOT BETWEEN 0.35 and 0.6: take fewer with")]
)
def test_a_drawn_set_that_is_too_easy_or_too_hard_for_stock_is_noted(score, words):
    note = paired([score, score], [0.5, 0.5]).notes["map_paired_stock_synth"]
    assert words in note
    assert ("NOT BETWEEN" in note) == bool(words)


def test_what_the_sides_declared_differently_is_noted_beside_their_difference():
    measured = paired([0.5, 0.5], [0.5, 0.5], our_settings={"deterministic": False})
    assert "DIFFERS deterministic: stock True, ours False" in measured.notes["map_paired"]


def test_without_an_evaluator_only_the_rows_of_small_objects_fail_and_say_what_to_install():
    measured = paired([0.5, 0.5], [0.5, 0.5], small=MAP_PAIRED["ap_small"].NOT_INSTALLED)
    assert measured.values["map_paired"] == 0
    assert {row for row in measured.failed if row.startswith("map")} == set()
    assert measured.failed["ap_small_paired"].startswith(
        "stock_bccd: seed 0, 1: faster-coco-eval is not installed, and not pinned here: pip install faster-coco-eval"
    )


def test_a_training_whose_batch_was_halved_for_want_of_memory_is_no_result(monkeypatch, tmp_path):
    class Model:
        trainer = SimpleNamespace(batch_size=16)

        def __init__(self, name: str) -> None: ...

        def add_callback(self, event: str, function: object) -> None: ...

        def train(self, **arguments: object) -> object:
            return SimpleNamespace(box=SimpleNamespace(map=0.5))

    monkeypatch.setattr(training, "yolo_class", lambda side: Model)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/data.yaml").touch()
    asked = {"model": "yolo12n.yaml", "batch": 32, "imgsz": 64, "workers": 0, "device": "cpu", "seed": 0, "epochs": 1}
    with pytest.raises(harness.BenchmarkError, match="trained with batch 16 instead of 32"):
        MAP_PAIRED["train"]({**asked, "side": "stock", "folder": str(tmp_path)})


def test_kept_runs_of_one_data_set_stay_when_the_other_is_changed(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(kept_runs, "_start", lambda module, folder, asked, gpu: child.Started(None, folder))
    monkeypatch.setattr(
        child, "finished", lambda started: made.append(started.folder.name) or child.Run([], [0.5, 0.1, 7, {}])
    )

    def call(**parameters: object) -> harness.Measured:
        made.clear()
        asked = {"kept": str(tmp_path / "runs.json"), "data": "photos", "seeds": 2, **parameters}
        return MAP_PAIRED["run_side"](job("map_paired", "ours", (), tmp_path, **asked))

    assert "not run yet" in call().failed["map_paired"]
    assert made == ["stock_bccd-0", "ours_bccd-0", "stock_synth-0", "ours_synth-0"]
    assert call().values["map_paired"] == 0
    call(pictures=7)
    assert made == ["stock_synth-0", "ours_synth-0"]
    monkeypatch.setattr(MAP_PAIRED["ap_small"], "evaluator", lambda: "99.0")
    call(pictures=7)
    assert len(made) == 4

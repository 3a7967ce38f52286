# SPDX-License-Identifier: AGPL-3.0-or-later
"""The latency program on the CPU, what it shares with others, the table beside its record, and its picture."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

import benchmarks.__main__ as command
from benchmarks import answers, clocks, details, harness, latency_plot, plots, record, timing
from benchmarks.harness import Job, Measured, Outcome

PROGRAM = harness.discover()["latency"]
CASES = PROGRAM.run_side.__globals__["CASES"]
TINY = {"device": "cpu", "imgsz": 64, "calls": 3, "least_calls": 2, "warmup_calls": 1, "warmup_s": 0.0}


def test_every_size_and_batch_has_its_rows_with_nms_and_without():
    names = {row.name for row in PROGRAM.rows}
    assert len(names) == 3 * 5 * 7
    assert {"latency_network_n_b1", "latency_boxes_x_b64", "latency_request_m_b8"} <= names


def test_each_kind_of_request_is_timed_and_has_its_details(tmp_path, monkeypatch):
    monkeypatch.setattr(
        answers, "weights", lambda size, parameters, scratch: f"yolo12{size}.yaml"
    )  # at once, and finds nothing
    rows = tuple(f"latency_{kind}_n_b2" for kind in ("network", "boxes", "request"))
    measured = PROGRAM.run_side(Job("ours", {**PROGRAM.parameters, **TINY}, rows, tmp_path, time.monotonic()))
    assert set(measured.values) == set(rows) == set(measured.details)
    assert measured.failed == {}
    for row in rows:
        numbers = measured.details[row]
        assert 0 < numbers["p50_ms"] <= numbers["p90_ms"] <= numbers["p99_ms"]
        assert numbers["p50_ms"] == measured.values[row]
        assert 2 <= numbers["calls"] <= 3
        assert numbers["images_per_s"] == pytest.approx(2000 / numbers["p50_ms"])


def test_what_has_no_room_is_a_reason_and_the_next_is_measured(tmp_path, monkeypatch):
    made = []

    def measure(case, model, job, measured):
        made.append(case.row)
        if case.batch == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore words")
        measured.values[case.row] = 1.0

    monkeypatch.setitem(PROGRAM.run_side.__globals__, "_measure", measure)
    monkeypatch.setattr(answers, "weights", lambda size, parameters, scratch: f"{size}.pt")
    monkeypatch.setattr("benchmarks.training.yolo_class", lambda side: lambda weights: SimpleNamespace())
    rows = ("latency_network_n_b1", "latency_network_n_b2", "latency_network_s_b2")
    measured = PROGRAM.run_side(Job("stock", PROGRAM.parameters, rows, tmp_path, 0.0))
    assert made == list(rows)
    assert measured.failed == {"latency_network_n_b1": "CUDA out of memory. Tried to allocate 2 GiB"}
    assert set(measured.values) == set(rows[1:])


def test_packages_are_made_once_for_each_batch_and_on_our_side_alone(tmp_path, monkeypatch):
    exported, ran = [], []

    class Model:
        def __init__(self, weights):
            self.weights = weights

        def export(self, **options):
            exported.append(options)
            return f"b{options['batch']}.pt2"

    inside = PROGRAM.run_side.__globals__
    monkeypatch.setitem(inside, "_measure", lambda case, model, job, measured: ran.append((case.row, model.weights)))
    monkeypatch.setattr(answers, "weights", lambda size, parameters, scratch: f"{size}.pt")
    monkeypatch.setattr("benchmarks.training.yolo_class", lambda side: Model)
    rows = ("latency_network_n_b1", "latency_boxes_n_b1", "latency_boxes_n_b2")
    for side in ("stock", "ours"):
        parameters = {**PROGRAM.parameters, "form": "aoti"}
        measured = PROGRAM.run_side(Job(side, parameters, rows, tmp_path, 0.0))
        assert measured.declared["form"] == ("aoti" if side == "ours" else "pt")
    assert exported == [
        {"format": "aoti", "batch": batch, "half": True, "verify": False, "imgsz": 640, "device": "0"}
        for batch in (1, 2)
    ]
    assert [weights for _, weights in ran] == ["n.pt"] * 3 + ["b1.pt2", "b1.pt2", "b2.pt2"]


@pytest.mark.parametrize(("per_call_s", "calls"), [(0.001, 300), (0.05, 100), (2.0, 30)])
def test_slow_requests_are_called_less_often_but_not_too_seldom(tmp_path, monkeypatch, per_call_s, calls):
    asked = []
    monkeypatch.setattr(timing, "warm", lambda call, device, **limits: per_call_s)
    monkeypatch.setattr(timing, "latencies_ms", lambda call, device, repeats: asked.append(repeats) or [1.0])
    monkeypatch.setitem(PROGRAM.run_side.__globals__, "_call_of", lambda *arguments: None)
    job = Job("ours", {**PROGRAM.parameters, "device": "cpu"}, (), tmp_path, 0.0)
    PROGRAM.run_side.__globals__["_measure"](CASES[0], None, job, Measured({}))
    assert asked == [calls]


@pytest.mark.slow  # a process for each side
def test_a_run_leaves_a_table_beside_its_record(tmp_path):
    settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    rows = "latency_boxes_n_b1,latency_request_n_b1"
    assert command.main(["run", "latency", "--rows", rows, *settings, "--records", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/latency-reduced.csv")
    found = {(line["row"], line["side"]): line for line in details.read(path)}
    assert set(found) == {(row, side) for row in rows.split(",") for side in ("stock", "ours")}
    content = json.loads(path.with_suffix(".json").read_text())
    for row in content["rows"]:
        assert float(found[row["name"], "ours"]["p50_ms"]) == pytest.approx(row["ours"][0], abs=1e-3)


# Shared parts


def test_quantiles_are_values_that_were_measured():
    found = answers.quantiles([float(value) for value in range(100, 0, -1)])
    assert (found.p50, found.p90, found.p99, found.calls) == (51.0, 91.0, 100.0, 100)
    assert answers.quantiles([2.0]) == answers.Quantiles(2.0, 2.0, 2.0, 1)
    assert found.words() == "p90 91.000, p99 100.000 ms of 100 calls"


def test_clocks_are_read_and_what_a_machine_does_not_tell_is_left_out():
    assert clocks.of_gpu("1980, 2619, 41, 312.55\n") == {
        "sm_mhz": 1980,
        "memory_mhz": 2619,
        "gpu_c": 41,
        "gpu_w": 312.55,
    }
    assert clocks.of_gpu("1980, [N/A], 41, [Not Supported]") == {"sm_mhz": 1980, "gpu_c": 41}
    assert clocks.of_gpu("") == {}
    assert clocks.of_cpu("cpu MHz\t\t: 2000.0\nx: 1\ncpu MHz\t\t: 3000.5\n") == {"cpu_mhz": 2500.2}
    assert clocks.of_cpu("Features: fp\n") == {}


def outcome(side, **numbers):
    return Outcome(side, Measured({}, details={"fast": numbers}))


def test_the_table_counts_each_sides_runs_and_leaves_cells_empty(tmp_path):
    ran = [
        outcome("stock", p50_ms=1.23456, sm_mhz=1980),
        outcome("ours", p50_ms=1),
        Outcome("ours", None, "died"),
        outcome("ours", p50_ms=2),
    ]
    details.write(tmp_path / "r.csv", ran)
    assert (tmp_path / "r.csv").read_text().splitlines() == [
        "row,side,repeat,p50_ms,sm_mhz",
        "fast,stock,1,1.2346,1980",
        "fast,ours,1,1,",
        "fast,ours,2,2,",
    ]
    assert [line["repeat"] for line in details.read(tmp_path / "r.csv")] == ["1", "1", "2"]


def test_a_program_without_details_leaves_no_table(tmp_path):
    details.write(tmp_path / "r.csv", [Outcome("ours", Measured({}, values={"wall": 1.0}))])
    assert list(tmp_path.iterdir()) == []
    assert details.read(tmp_path / "r.csv") == []


# The picture


def content():
    rows = [
        record.row(f"latency_{kind}_{size}_b{batch}", "ms", "lower", {"stock": [batch * 2.0], "ours": [batch * 1.0]})
        for size in "ns"
        for batch in (8, 1)
        for kind in ("network", "boxes")
    ]
    return {
        "benchmark": "latency",
        "date": "2026-11-29T10:00:00Z",
        "device": "gpu",
        "commit": "0123456789",
        "parameters": {"changed": []},
        "rows": [
            *rows,
            record.row("latency_request_n_b1", "ms", "lower", {"stock": [3.0]}, "ours FAILED: out of memory"),
        ],
    }


TABLE = [{"row": "latency_network_n_b8", "side": "ours", "repeat": "1", "p99_ms": "9.5"}]


def test_a_line_has_its_points_by_batch_with_p99_where_the_table_has_it():
    found = {(kind, size, side): points for kind, size, side, points in latency_plot.lines(content(), TABLE)}
    assert found["network", "n", "ours"] == [(1, 1.0, None), (8, 8.0, 9.5)]
    assert found["network", "n", "stock"] == [(1, 2.0, None), (8, 16.0, None)]
    assert ("request", "n", "ours") not in found


def test_the_picture_is_the_same_every_time_and_carries_its_record(tmp_path):
    for name in ("one.svg", "two.svg"):
        latency_plot.draw(content(), TABLE, tmp_path / name, plots.digest_of(content()))
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert plots.is_of(tmp_path / "one.svg", content())
    assert all(
        f"<!-- {words} -->" in text
        for words in ("n ours", "s stock", "network alone (NMS excluded)", "picture to boxes")
    )


def test_the_report_draws_it_from_the_record_and_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(plots, "PICTURES", tmp_path / "plots")
    monkeypatch.setattr(plots, "path_of", lambda content: plots.RECORDS / "day-gpu/latency.json")
    plots.PAGE.write_text(f"{plots.BEGIN}\n{plots.END}\n")
    assert plots.write([content()]) == [plots.PICTURES / "latency-gpu.svg", plots.PAGE]
    assert "latency: milliseconds by batch](plots/latency-gpu.svg)" in plots.PAGE.read_text()
    assert plots.write([content()]) == []

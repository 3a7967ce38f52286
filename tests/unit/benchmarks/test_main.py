# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m benchmarks`: from a command to a record, with sides that answer at once instead of in their own processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest

import benchmarks.__main__ as command
from benchmarks import record, sides, system
from benchmarks.harness import Benchmark, BenchmarkError, Measured, Outcome, Row

DECLARED = {"dtype": "bf16", "deterministic": True, "optimizer": "SGD", "workers": 16, "cache": False}
ROWS = (Row("wall", "s", "lower"), Row("map", "mAP", "higher"))


class Sides:
    """Answers for sides.run_child: stock takes 10 s, ours 5 s; `broken` sides fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict, tuple[str, ...]]] = []
        self.broken: set[str] = set()

    def run_child(self, benchmark, side, parameters, rows, limit_s, log):
        self.calls.append((side, dict(parameters), rows))
        log.write(f"{side} ran\n")
        if side in self.broken:
            return Outcome(side, None, "exit code 1: ValueError: no such thing")
        values = {"wall": 10.0 if side == "stock" else 5.0, "map": 0.57}
        return Outcome(side, Measured(DECLARED, {name: values[name] for name in rows}, versions={"torch": "2.11.0"}))

    @property
    def order(self) -> list[str]:
        return [side for side, _, _ in self.calls]


@pytest.fixture
def answers(monkeypatch) -> Sides:
    fake = Sides()
    monkeypatch.setattr(sides, "run_child", fake.run_child)
    monkeypatch.setattr(system, "gpus", lambda: [])
    for name in [name for name in os.environ if name.startswith("YOLOV12_")]:
        monkeypatch.delenv(name)
    known = [
        Benchmark(
            "speed", "ours is fast", ROWS, "cpu", print, parameters={"epochs": 100}, warmup={"epochs": 1}, repeats=2
        ),
        Benchmark("kernel", "ours is faster", ROWS, "cuda", print, parameters={"device": "cuda"}, repeats=2),
    ]
    monkeypatch.setattr(command, "discover", lambda: {one.name: one for one in known})
    return fake


def run(tmp_path: Path, *arguments: str) -> int:
    return command.main(["run", *arguments, "--records", str(tmp_path)])


def written(tmp_path: Path) -> dict:
    (path,) = tmp_path.glob("*/*.json")
    return json.loads(path.read_text())


def names(tmp_path: Path, pattern: str = "*/*.json") -> list[str]:
    return sorted(path.name for path in tmp_path.glob(pattern))


def test_a_run_writes_a_valid_record_with_its_log_beside_it(tmp_path, answers):
    assert run(tmp_path, "speed") == 0
    content = written(tmp_path)
    jsonschema.validate(content, json.loads(record.SCHEMA.read_text()))
    assert content["device"] == f"cpu-{system.cores()}-cores"
    (log,) = tmp_path.glob("*/speed.log")
    assert "stock ran" in log.read_text()


def test_sides_take_turns_after_one_discarded_warm_up_each(tmp_path, answers):
    run(tmp_path, "speed")
    assert answers.order == ["stock", "ours"] + ["stock", "ours"] * 2
    assert [parameters["epochs"] for _, parameters, _ in answers.calls] == [1, 1, 100, 100, 100, 100]
    assert written(tmp_path)["rows"][0]["stock"] == [10.0, 10.0]


def test_a_warm_up_that_sides_share_is_made_by_the_first_of_them(tmp_path, answers, monkeypatch):
    shared = Benchmark(
        "b", "c", ROWS, "cpu", print, parameters={"epochs": 9}, warmup={"epochs": 1}, shares_warmup=True, repeats=1
    )
    monkeypatch.setattr(command, "discover", lambda: {"b": shared})
    run(tmp_path, "b")
    assert [(side, parameters["epochs"]) for side, parameters, _ in answers.calls] == [
        ("stock", 1),
        ("stock", 9),
        ("ours", 9),
    ]
    answers.calls.clear()
    run(tmp_path, "b", "--sides", "ours")
    assert [parameters["epochs"] for _, parameters, _ in answers.calls] == [1, 9]


def test_a_warm_machine_needs_no_warm_up(tmp_path, answers):
    run(tmp_path, "speed", "--no-warmup", "--repeats", "1")
    assert answers.order == ["stock", "ours"]


def test_the_record_says_what_was_typed_without_the_machines_paths(tmp_path, answers):
    run(tmp_path, "speed", "--set", "epochs=3")
    content = written(tmp_path)
    assert content["command"].startswith("python -m benchmarks run speed --set epochs=3 --records .../")
    assert str(tmp_path) not in json.dumps(content)
    assert content["parameters"] == {"epochs": 3, "changed": ["epochs"]}


def test_only_the_rows_that_were_asked_for_are_measured(tmp_path, answers):
    run(tmp_path, "speed", "--rows", "map")
    assert {rows for _, _, rows in answers.calls} == {("map",)}
    assert [row["name"] for row in written(tmp_path)["rows"]] == ["map"]


def test_one_side_alone_can_be_measured(tmp_path, answers):
    assert run(tmp_path, "speed", "--sides", "stock") == 0
    assert set(answers.order) == {"stock"}


def test_stock_may_fail_and_the_record_says_why(tmp_path, answers):
    answers.broken = {"stock"}
    assert run(tmp_path, "speed") == 0
    assert "stock FAILED: exit code 1: ValueError: no such thing" in written(tmp_path)["rows"][0]["note"]


def test_if_ours_fails_the_record_is_written_and_the_exit_code_is_1(tmp_path, answers):
    answers.broken = {"ours"}
    assert run(tmp_path, "speed") == 1
    assert written(tmp_path)["rows"][0]["stock"] == [10.0, 10.0]


def test_a_run_that_is_cut_off_keeps_what_it_has_and_is_marked_as_unfinished(tmp_path, answers, monkeypatch):
    def cut_off(*arguments):
        if len(answers.calls) == 5:
            raise KeyboardInterrupt
        return answers.run_child(*arguments)

    monkeypatch.setattr(sides, "run_child", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "speed")
    content = written(tmp_path)
    assert (content["rows"][0]["stock"], content["rows"][0]["ours"]) == ([10.0, 10.0], [5.0])
    assert content["parameters"]["changed"] == ["unfinished"]


def test_a_full_run_is_marked_as_nothing_else(tmp_path, answers):
    run(tmp_path, "speed")
    assert written(tmp_path)["parameters"] == {"epochs": 100, "changed": []}
    assert names(tmp_path) == ["speed.json"]


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--no-warmup"], "warmup", False),
        (["--repeats", "1"], "repeats", 1),
        (["--rows", "map"], "rows", ["map"]),
        (["--sides", "ours"], "sides", ["ours"]),
        (["--set", "epochs=3"], "epochs", 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_every_way_to_reduce_a_run_is_in_its_record_its_name_and_its_table(
    tmp_path, answers, capsys, arguments, name, value
):
    run(tmp_path, "speed", *arguments)
    parameters = written(tmp_path)["parameters"]
    assert (parameters["changed"], parameters[name]) == ([name], value)
    assert names(tmp_path) == ["speed-reduced.json"]
    assert f"**not as the claim says: {name}=" in capsys.readouterr().out
    jsonschema.validate(written(tmp_path), json.loads(record.SCHEMA.read_text()))


def test_a_setting_of_ours_in_the_environment_is_a_change_too(tmp_path, answers, monkeypatch):
    monkeypatch.setenv("YOLOV12_FLASH_ATTN", "0")
    run(tmp_path, "speed")
    parameters = written(tmp_path)["parameters"]
    assert (parameters["changed"], parameters["environment"]) == (["environment"], ["YOLOV12_FLASH_ATTN=0"])


def test_more_repeats_than_the_claims_are_no_reduction(tmp_path, answers):
    run(tmp_path, "speed", "--repeats", "5")
    assert written(tmp_path)["parameters"]["changed"] == []


def test_no_warmup_changes_nothing_where_there_is_none(tmp_path, answers):
    run(tmp_path, "kernel", "--no-warmup", "--set", "device=cpu")
    assert written(tmp_path)["parameters"]["changed"] == ["device"]


def test_no_record_or_log_of_the_same_day_is_overwritten(tmp_path, answers):
    run(tmp_path, "speed")
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    run(tmp_path, "speed")
    run(tmp_path, "speed", "--no-warmup")
    run(tmp_path, "speed", "--no-warmup")
    assert names(tmp_path) == ["speed-2.json", "speed-reduced-2.json", "speed-reduced.json", "speed.json"]
    assert names(tmp_path, "*/*.log") == [name.replace(".json", ".log") for name in names(tmp_path)]
    assert {path: path.read_bytes() for path in before} == before


def test_the_log_of_a_run_that_was_cut_off_before_its_first_turn_stays(tmp_path, answers, monkeypatch):
    with monkeypatch.context() as cut_off:
        cut_off.setattr(sides, "run_child", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "speed")
    run(tmp_path, "speed")
    assert (names(tmp_path), names(tmp_path, "*/*.log")) == (["speed-2.json"], ["speed-2.log", "speed.log"])


def test_what_can_not_be_run_as_asked_leaves_no_log(tmp_path, answers, monkeypatch, capsys):
    def refuse(*arguments):
        raise BenchmarkError("no data yaml in photos")

    monkeypatch.setattr(sides, "run_child", refuse)
    assert run(tmp_path, "speed") == 2
    assert "error: no data yaml in photos" in capsys.readouterr().err
    assert names(tmp_path, "*/*") == []


def test_code_that_changes_while_it_is_measured_shows_as_dirty(tmp_path, answers, monkeypatch):
    digests = iter(["at the start", "at the start", "changed"])
    monkeypatch.setattr(system, "commit", lambda: "0123456789ab")
    monkeypatch.setattr(system, "code_digest", lambda *root: next(digests, "changed"))
    run(tmp_path, "speed")
    assert written(tmp_path)["commit"] == "0123456789ab-dirty"


def test_sides_and_rows_keep_the_benchmarks_order_and_come_once(tmp_path, answers):
    run(tmp_path, "speed", "--sides", "ours,stock,ours", "--rows", "map,wall")
    assert written(tmp_path)["parameters"]["changed"] == []
    assert answers.order[:2] == ["stock", "ours"]


def test_the_table_of_a_run_is_printed(tmp_path, answers, capsys):
    run(tmp_path, "speed")
    assert "| wall | s, lower is better | 10 (10..10, n=2) | - | 5 (5..5, n=2) | 2.00x | - |" in capsys.readouterr().out


def test_report_reads_what_run_wrote(tmp_path, answers, capsys):
    run(tmp_path, "speed")
    capsys.readouterr()
    assert command.main(["report", "--records", str(tmp_path)]) == 0
    assert "### speed" in capsys.readouterr().out


def test_report_refuses_a_folder_that_is_not_there(tmp_path, capsys):
    assert command.main(["report", "--records", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert command.main(["report", "--records", str(tmp_path)]) == 0


@pytest.mark.parametrize("name", ["lr_find", "map_budget", "map_paired"])
def test_runs_that_copy_their_data_set_later_are_refused_before_where_there_is_none(tmp_path, name, capsys):
    settings = ["--set", "device=cpu", "--set", f"data={tmp_path / 'nowhere'}"]
    assert command.main(["run", name, *settings, "--records", str(tmp_path / "records")]) == 2
    assert f"no data yaml in {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert not (tmp_path / "records").exists() or not list((tmp_path / "records").rglob("*.json"))


def test_without_a_gpu_a_gpu_benchmark_refuses_before_anything_runs(tmp_path, answers, capsys):
    assert run(tmp_path, "speed", "kernel") == 2
    assert answers.calls == []
    assert "kernel needs 1 NVIDIA GPU(s) and nvidia-smi shows 0; --set device=cpu" in capsys.readouterr().err


def test_a_gpu_benchmark_can_be_smoked_on_the_cpu_and_says_so(tmp_path, answers):
    assert run(tmp_path, "kernel", "--set", "device=cpu") == 0
    content = written(tmp_path)
    assert content["device"].startswith("cpu-")
    assert content["parameters"]["changed"] == ["device"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["spede"], "no benchmark called spede; there are: speed, kernel"),
        (["speed", "--set", "epoch=1"], "among: epochs"),
        (["speed", "--sides", "theirs"], "speed has stock, ours"),
        (["speed", "--rows", "walls"], "speed has wall, map"),
        (["speed", "--repeats", "0"], "--repeats 0: expected more than 0"),
        (["speed", "--timeout-s", "-1"], "--timeout-s -1: expected more than 0"),
    ],
)
def test_a_wrong_argument_gets_one_sentence_and_exit_code_2(tmp_path, answers, capsys, arguments, words):
    assert run(tmp_path, *arguments) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_list_names_every_benchmark_with_its_rows(answers, capsys):
    assert command.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "speed: ours is fast (needs cpu; 2 x stock, ours)" in listed
    assert "rows: wall map" in listed


def scaling() -> Benchmark:
    rows = tuple(Row(f"scale{gpus}", "efficiency", "higher", gpus=gpus, only_by_name=gpus == 3) for gpus in (2, 3, 4))
    return Benchmark("scale", "many are fast", rows, "cuda", print, gpus=2, parameters={"device": "cuda"}, repeats=1)


@pytest.mark.parametrize(
    ("gpus", "asked", "rows"),
    [
        (2, [], ["scale2"]),
        (3, [], ["scale2"]),
        (8, [], ["scale2", "scale4"]),
        (8, ["--rows", "scale3"], ["scale3"]),
    ],
)
def test_a_machine_measures_the_rows_that_it_has_gpus_for_and_others_only_by_name(
    tmp_path, answers, monkeypatch, gpus, asked, rows
):
    monkeypatch.setattr(command, "discover", lambda: {"scale": scaling()})
    monkeypatch.setattr(system, "gpus", lambda: ["A100"] * gpus)
    monkeypatch.setattr(
        sides,
        "run_child",
        lambda benchmark, side, parameters, rows, limit_s, log: Outcome(
            side, Measured(DECLARED, dict.fromkeys(rows, 1.0))
        ),
    )
    assert run(tmp_path, "scale", *asked) == 0
    assert names(tmp_path) == ["scale-reduced.json" if asked else "scale.json"]
    content = written(tmp_path)
    assert [row["name"] for row in content["rows"]] == rows
    assert content["device"] == f"a100-x{int(rows[-1][-1])}"


def test_a_row_that_needs_more_gpus_than_there_are_is_refused(tmp_path, answers, monkeypatch, capsys):
    monkeypatch.setattr(command, "discover", lambda: {"scale": scaling()})
    monkeypatch.setattr(system, "gpus", lambda: ["A100"] * 2)
    assert run(tmp_path, "scale", "--rows", "scale4") == 2
    assert "scale needs 4 NVIDIA GPU(s) and nvidia-smi shows 2" in capsys.readouterr().err
    monkeypatch.setattr(system, "gpus", lambda: ["A100"])
    assert run(tmp_path, "scale") == 2
    assert "scale needs 2 NVIDIA GPU(s) and nvidia-smi shows 1" in capsys.readouterr().err

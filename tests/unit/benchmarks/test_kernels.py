# SPDX-License-Identifier: AGPL-3.0-or-later
"""kernels: its rows, what it makes of times, and what it says where there is no GPU. On a GPU: tests/gpu/test_bench_kernels.py."""

from __future__ import annotations

import subprocess

import pytest
import torch

import benchmarks.__main__ as command
from benchmarks import harness, plan, suite, system
from benchmarks.harness import Measured
from benchmarks.kernels.contest import OTHER, OURS
from benchmarks.kernels.inference import EARLY, Place
from tests.unit.benchmarks.kernels.stand_ins import Ops, ToldClock
from tests.unit.benchmarks.programs import COMMAND, job

NAMES = """
    fused_conv_n_b1 fused_conv_s_b32 network_n_b1 network_s_b32 fused_depthwise_n_b1 fused_depthwise_s_b32 decode_b1 decode_b32
    attend_t100 attend_t400 attend_t1600 norm_forward_n_b64 norm_forward_n_b256 norm_backward_n_b64 norm_backward_n_b256
    join_n_b64 join_n_b256 stem_forward_n_b64 stem_forward_n_b256 stem_backward_n_b64 stem_backward_n_b256
    depthwise_forward_n_b64 depthwise_forward_n_b256 depthwise_backward_n_b64 depthwise_backward_n_b256
""".split()
"""Quoted elsewhere, so that they do not change; what constants wait for comes first."""

PLACE = Place(torch.device("cpu"), Ops(), 64)


@pytest.fixture(scope="module")
def program():
    return harness.discover()["kernels"]


def measured(program, tmp_path, *rows: str, by: ToldClock, **parameters: object) -> Measured:
    found = Measured(declared={})
    measure = program.run_side.__globals__["measure"]
    with torch.no_grad():
        measure(job("kernels", "ours", rows, tmp_path, **parameters), PLACE, by, found)
    return found


def test_rows_are_named_as_they_are_quoted_and_in_the_order_of_their_use(program):
    assert [row.name for row in program.rows] == NAMES


def test_a_row_has_torchs_time_in_stocks_place_ours_and_what_the_choices_lose(program, tmp_path, capsys):
    us = {OTHER: 20.0, "64x64": 10.0, "32x32": 8.0, EARLY: 9.0}
    found = measured(program, tmp_path, "fused_conv_n_b1", by=ToldClock(lambda way: us.get(way, 12.0)))
    calls = int(found.notes["fused_conv_n_b1"].split(" shapes, ")[1].split(" calls")[0])
    assert found.itself == {"fused_conv_n_b1": pytest.approx(20.0 * calls)}
    assert found.values == {"fused_conv_n_b1": pytest.approx(10.0 * calls)}
    assert f"early {9.0 * calls:.1f} us, choices lose {2.0 * calls:.1f} us (20.0 %)" in found.notes["fused_conv_n_b1"]
    assert "took 64x64, fastest 32x32, 20 % lost" in found.notes["fused_conv_n_b1"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fused_conv_n_b1:"
    assert sum("| chosen 64x64" in line for line in lines) == int(found.notes["fused_conv_n_b1"].split(" shapes")[0])


def test_attention_says_up_to_how_many_rows_ours_is_no_slower(program, tmp_path):
    found = measured(program, tmp_path, "attend_t100", by=ToldClock())
    assert found.values == found.itself == {"attend_t100": 10.0}
    assert found.notes["attend_t100"].startswith(
        "no slower up to 51200 rows of queries (taken up to 512 tokens); us at so many"
    )


def test_what_the_time_does_not_suffice_for_is_left_out_with_its_name(program, tmp_path):
    found = measured(program, tmp_path, "decode_b1", "attend_t400", by=ToldClock(), budget_s=0.0)
    assert not found.values
    assert found.failed["decode_b1"] == "the budget of 0 s is spent: --rows decode_b1 measures it alone"
    assert found.failed.keys() == {"decode_b1", "attend_t400"}


def test_a_way_that_a_row_needs_and_can_not_run_is_the_rows_failure(program, tmp_path):
    found = measured(program, tmp_path, "decode_b1", by=ToldClock(broken={OURS: "no kernel image"}))
    assert found.failed == {"decode_b1": "1 x 84 anchors: ours could not run: no kernel image"}


def test_one_that_it_does_not_need_is_noted(program, tmp_path):
    found = measured(program, tmp_path, "decode_b1", by=ToldClock(broken={EARLY: "not here"}))
    assert found.values == {"decode_b1": 10.0}
    assert found.notes["decode_b1"].endswith("could not run: early: not here")


def test_ops_of_another_version_are_a_failure_of_the_row(program, tmp_path, monkeypatch):
    monkeypatch.delattr(Ops, "fused_conv_tile")
    found = measured(program, tmp_path, "fused_conv_n_b1", by=ToldClock())
    assert "fused_conv_tile" in found.failed["fused_conv_n_b1"]


@pytest.mark.parametrize("arguments", [(), ("--set", "device=cpu")])
def test_without_a_gpu_it_says_so_in_one_sentence(tmp_path, arguments):
    done = subprocess.run(
        [*COMMAND, "run", "kernels", *arguments, "--records", str(tmp_path)],
        cwd=system.ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(system.ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_rows_can_be_chosen_and_another_name_is_refused_with_those_that_there_are(program, monkeypatch):
    monkeypatch.setattr(system, "gpus", lambda: ["NVIDIA H200"])
    options = command._parser().parse_args(["run", "kernels", "--rows", "attend_t400,network_n_b1"])
    (one,) = plan.make(options, {"kernels": program}, {})
    assert one.row_names == ("network_n_b1", "attend_t400")


def test_the_whole_bench_leaves_it_to_who_names_it():
    assert "kernels" in suite.BY_NAME_ONLY

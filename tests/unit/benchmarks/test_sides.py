# SPDX-License-Identifier: AGPL-3.0-or-later
"""A side's process: what it is told, how it may end, and that stock is proven to be stock."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from benchmarks import sides
from benchmarks.harness import Benchmark, Measured

BLOCK = sides.ATTENTION_MODULE


def run(code: str, limit_s: float = 60) -> tuple[tuple[str, str, str], str]:
    """What `communicate` answers for a Python program, and the log that it wrote."""
    log = io.StringIO()
    return sides.communicate([sys.executable, "-c", code], dict(os.environ), limit_s, log), log.getvalue()


def block(forward: object) -> dict[str, ModuleType]:
    """A process's modules in which AAttn has the given forward."""
    return {BLOCK: SimpleNamespace(AAttn=SimpleNamespace(forward=forward))}


def upstreams_forward() -> object:
    source = "def forward(self, x): return x"
    namespace = {"__name__": BLOCK}
    exec(compile(source, "/site-packages/ultralytics/nn/modules/block.py", "exec"), namespace)
    return namespace["forward"]


def our_forward(self, x):
    return x


def test_stock_is_told_to_stay_stock_and_gets_none_of_our_settings():
    told = sides.environment("stock", Path("/s"), {"YOLOV12_FLASH_ATTN": "1", "YOLOV12_DISABLE": "0", "HOME": "/h"})
    assert {key: value for key, value in told.items() if key.startswith("YOLOV12_")} == {"YOLOV12_DISABLE": "1"}
    assert told["HOME"] == "/h"


def test_tuned_is_stock_too():
    assert sides.environment("tuned", Path("/s"), {})["YOLOV12_DISABLE"] == "1"


def test_ours_keeps_our_settings_and_starts_with_an_empty_cache():
    told = sides.environment(
        "ours", Path("/s"), {"YOLOV12_FLASH_ATTN": "0", "YOLOV12_DISABLE": "1", "YOLOV12_COMMIT": "abc"}
    )
    assert told["YOLOV12_FLASH_ATTN"] == "0"
    assert told["YOLOV12_CACHE_DIR"] == "/s/cache"
    assert "YOLOV12_DISABLE" not in told
    assert "YOLOV12_COMMIT" not in told


def test_both_sides_have_their_own_configuration_and_no_network():
    for side in ("stock", "ours"):
        told = sides.environment(side, Path("/s"), {})
        assert (told["YOLO_CONFIG_DIR"], told["YOLO_OFFLINE"]) == ("/s/config", "true")


def test_a_path_for_python_that_was_given_is_kept():
    told = sides.environment("stock", Path("/s"), {"PYTHONPATH": "/carried/site"})
    assert told["PYTHONPATH"].split(os.pathsep)[-1] == "/carried/site"


def test_stock_with_upstreams_attention_is_stock():
    sides.check("stock", block(upstreams_forward()), [])


def test_stock_may_have_met_the_disabled_hook():
    sides.check("stock", {"yolov12": ModuleType("yolov12"), "yolov12.compat": ModuleType("yolov12.compat")}, [])


@pytest.mark.parametrize(
    ("modules", "meta_path"),
    [
        ({"yolov12.engine.trainer": ModuleType("t")}, []),
        (block(our_forward), []),
        ({}, [type("_Finder", (), {"__module__": "yolov12.compat"})()]),
    ],
    ids=["our module is loaded", "the attention is replaced", "the drop-in watches imports"],
)
@pytest.mark.parametrize("side", ["stock", "tuned"])
def test_stock_with_anything_of_ours_is_void(side, modules, meta_path):
    with pytest.raises(sides.SideError, match=f"{side} was not stock"):
        sides.check(side, modules, meta_path)


def test_ours_with_upstreams_attention_is_void():
    with pytest.raises(sides.SideError, match="was not installed"):
        sides.check("ours", block(upstreams_forward()), [])


def test_ours_with_our_attention_is_ours():
    sides.check("ours", block(our_forward), [])


def test_a_side_without_ultralytics_has_no_attention_to_check():
    sides.check("ours", {}, [])


def test_only_stdout_is_the_answer_and_stderr_is_the_log():
    (answer, last, ending), log = run("import sys; print('{}'); print('epoch 1', file=sys.stderr)")
    assert (answer, last, ending) == ("{}", "epoch 1", "")
    assert log == "epoch 1\n"


def test_of_a_progress_bar_the_log_keeps_the_last_state():
    _, log = run(r"import sys; sys.stderr.write('\r 10%\r 50%\r100%\n')")
    assert log == "100%\n"


def test_a_crash_ends_with_its_exit_code_and_its_last_line():
    (_, last, ending), log = run("raise RuntimeError('CUDA error: out of memory')")
    assert (last, ending) == ("RuntimeError: CUDA error: out of memory", "exit code 1")
    assert "Traceback" in log


def test_a_signal_is_an_ending_too():
    (_, _, ending), _ = run("import os; os.kill(os.getpid(), 9)")
    assert ending == "exit code -9"


def test_a_side_that_hangs_is_stopped_at_its_limit_with_what_it_started():
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    started_s = time.monotonic()
    (_, _, ending), _ = run(code, limit_s=1)
    assert ending == "stopped at its limit of 1 s"
    assert time.monotonic() - started_s < 30


def test_a_worker_that_was_left_behind_does_not_hold_up_the_answer():
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('{}', flush=True)"
    started_s = time.monotonic()
    (answer, _, ending), _ = run(code)
    assert (answer, ending) == ("{}", "")
    assert time.monotonic() - started_s < 30


def told(code: str, limit_s: float) -> sides.Outcome:
    """What is made of a child's answers; the child is this program instead of the benchmark's."""
    program = [sys.executable, "-c", code]
    communicate = sides.communicate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sides, "communicate", lambda _, *rest: communicate(program, *rest))
        return sides.run_child(BENCHMARK, "ours", {}, ("one", "two"), limit_s, io.StringIO())


BENCHMARK = Benchmark("speed", "is fast", (), "cpu", run_side=lambda job: Measured({}))
ONE = 'print(\'{"declared": {}, "values": {"one": 1.0}}\', flush=True)'


def test_of_a_side_that_is_stopped_at_its_limit_what_it_told_counts():
    outcome = told(f"import time; {ONE}; print('{{\"declared\"', end='', flush=True); time.sleep(60)", limit_s=3)
    assert outcome.measured is not None
    assert outcome.measured.values == {"one": 1.0}
    assert outcome.measured.failed == {"two": "stopped at its limit of 3 s"}


def test_of_one_that_fails_nothing_counts_and_of_one_that_ends_well_the_last():
    failed = told(f"{ONE}; raise SystemExit(3)", limit_s=60)
    assert failed.measured is None
    assert failed.failure == "exit code 3"
    whole = told(f"{ONE}; {ONE.replace('1.0', '2.0')}", limit_s=60)
    assert whole.measured == Measured({}, {"one": 2.0})

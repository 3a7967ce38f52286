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
    assert (answer, last, ending) == ("{}\n", "epoch 1", "")
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
    assert (answer, ending) == ("{}\n", "")
    assert time.monotonic() - started_s < 30


BENCHMARK = Benchmark("speed", "is fast", (), "cpu", run_side=lambda job: Measured({}))
ONE, TWO = ('{"declared": {}, "values": {"one": ' + value + "}}\n" for value in ("1.0", "2.0"))


def outcome(answer: str, ending: str) -> tuple[sides.Outcome, str]:
    """What is made of the answer of a child that ended so, and the log."""
    log = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sides, "communicate", lambda *_: (answer, "its last words", ending))
        return sides.run_child(BENCHMARK, "ours", {}, ("one", "two"), 3, log), log.getvalue()


def test_the_last_of_what_a_side_told_counts():
    found, log = outcome(ONE + TWO, "")
    assert found == sides.Outcome("ours", Measured({}, {"one": 2.0}))
    assert log.splitlines()[-1] == f"-> {TWO.strip()}"


@pytest.mark.parametrize("cut", ["", '{"declared": {}', TWO.strip()])
def test_of_a_side_that_is_stopped_at_its_limit_what_it_told_counts(cut):
    found, log = outcome(ONE + cut, f"{sides.STOPPED} of 3 s")
    assert found.measured == Measured({}, {"one": 1.0}, failed={"two": "stopped at its limit of 3 s"})
    assert found.was_stopped
    assert log.splitlines()[-1] == "-> stopped at its limit of 3 s"


@pytest.mark.parametrize(
    ("answer", "ending"), [(ONE, "exit code 3"), ("", "exit code 3"), ("", f"{sides.STOPPED} of 3 s")]
)
def test_of_one_that_fails_or_told_nothing_nothing_counts(answer, ending):
    found, log = outcome(answer, ending)
    assert found.measured is None
    assert found.failure == f"{ending}: its last words"
    assert log.splitlines()[-1] == f"-> {ending}"


def test_one_that_ends_well_without_an_answer_is_a_failure():
    found, _ = outcome("", "")
    assert found.failure == "told nothing but '': its last words"

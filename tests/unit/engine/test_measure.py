# SPDX-License-Identifier: AGPL-3.0-or-later
"""A run's first steps, measured by a clock and an allocator of the test's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from yolov12 import settings
from yolov12.engine import measured_cache, recompute
from yolov12.engine.measure import MEASURED_STEPS, SKIPPED_STEPS, Times
from yolov12.engine.profile import Measured, profile
from yolov12.engine.recompute import MOST_LEARNED, Recomputation
from yolov12.memory.budget import Memory
from yolov12.memory.peaks import Peaks
from yolov12.memory.plan import peaks as expected_peaks
from yolov12.model import fused
from yolov12.model.fused.trace import Trace, trace

SHAPE = (8, 3, 32, 32)
CPU = torch.device("cpu")
CALLS = 4
KIB = 2**10


class Chain(nn.Module):
    """A detector as far as planning is concerned: convolutions, then an output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Conv(3, 8, 3), Conv(8, 8, 3), Conv(8, 8, 3), Conv(8, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Hand:
    """A clock that stands at what it was told; marks pass when `passed` is set."""

    def __init__(self, first_call_ms: float = 1.0) -> None:
        self.marks, self.passed, self.first_call_ms = 0, True, first_call_ms

    def mark(self) -> int:
        self.marks += 1
        return self.marks - 1

    def has_passed(self, mark: int) -> bool:
        return self.passed

    def between_ms(self, first: int, last: int) -> float:
        is_first_convolution = first % (3 * CALLS) == 0
        return self.first_call_ms if is_first_convolution else 1.0


class Told:
    """An allocator with the peaks that a step is to have, one for each time that it is set back."""

    def __init__(self) -> None:
        self.now = 0

    def peak(self) -> tuple[int, int]:
        return self.now, 0

    def reset(self) -> None:
        self.now = 0


class Run:
    """Steps of a chain under a plan, on a card with `free` bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, cache: Path | None = None) -> None:
        monkeypatch.setattr(recompute, "mode_for", lambda *_: ("planned", "as in a test"))
        self.model, self.clock, self.free, self.allocated = Chain().train(), Hand(), free, 0
        self.peaks = Peaks(Told())
        self.recomputation = Recomputation(
            self.model,
            CPU,
            torch.float32,
            replace(settings.current(), mem_safety_ratio=0.0),
            lambda device: Memory(self.free - self.allocated, 0, self.allocated, 10**15),
            cache=cache,
            clock=self.clock,
        )

    def expected(self) -> tuple[int, int]:
        """(loss, backward) by the plan."""
        r = self.recomputation
        found = expected_peaks(r.known.profile.part(r.plan.parts), r.plan.dropped)
        return int(found[0]), int(found[1:].max())

    def step(self, more_bytes: int = 0, fails: bool = False) -> None:
        """One step whose loss and backward need `more_bytes` beyond the plan's expectation."""
        self.peaks.begin_step()
        parts = self.recomputation.before(SHAPE)
        loss, backward = (size + more_bytes + self.allocated for size in self.expected())
        with self.recomputation.watched(self.peaks, parts):
            if fails:
                raise RuntimeError("out of memory")
            for part in torch.randn(SHAPE).chunk(parts):
                self.model(part).sum().backward()
            self.peaks.begin("loss")
            self.peaks.allocator.now = loss
            self.peaks.begin("backward")
            self.peaks.allocator.now = backward

    def first_steps(self, more_bytes: int = 0) -> None:
        for _ in range(SKIPPED_STEPS + MEASURED_STEPS):
            self.step(more_bytes)


@pytest.fixture(autouse=True)
def fused_convolutions() -> Iterator[None]:
    fused.install()
    yield
    fused.choose({})
    fused.uninstall()


@pytest.fixture
def needed() -> int:
    """Bytes of a step with everything kept."""
    return max(profile(trace(Chain().train(), SHAPE, torch.float32), 0).peaks)


def test_after_the_first_steps_the_prediction_is_the_measured_peak(monkeypatch, needed, capsys):
    run = Run(monkeypatch, free=10 * needed)
    run.first_steps(more_bytes=64 * KIB)
    before = run.recomputation.plan.peak_bytes
    run.step()
    assert run.recomputation.plan.peak_bytes == before + 64 * KIB
    assert "the plan stays" in capsys.readouterr().err


def test_a_plan_that_needs_more_than_there_is_when_measured_is_made_anew(monkeypatch, needed, capsys):
    run = Run(monkeypatch, free=needed)
    run.first_steps(more_bytes=needed // 8)
    assert not run.recomputation.plan.dropped
    run.step()
    assert run.recomputation.plan.dropped
    said = capsys.readouterr().err
    assert "the first steps measured" in said
    assert " -> " in said
    assert run.recomputation.history.count("plan") == 1


def test_a_plan_that_was_made_anew_is_measured_too_and_kept_if_it_fits(monkeypatch, needed, capsys):
    run = Run(monkeypatch, free=needed)
    run.first_steps(more_bytes=needed // 8)
    run.first_steps(more_bytes=-needed // 16)  # under the new plan, which then needs less than was expected
    plan = run.recomputation.plan
    run.step()
    assert run.recomputation.plan.dropped == plan.dropped
    assert run.recomputation.plan.peak_bytes < plan.peak_bytes
    assert "the plan stays" in capsys.readouterr().err
    assert run.recomputation.first_steps is None


def test_where_forward_needs_more_than_the_loss_the_prediction_is_forwards(monkeypatch, needed):
    run = Run(monkeypatch, free=10 * needed)
    run.first_steps()
    steps, before = run.recomputation.first_steps, run.recomputation.plan.peak_bytes
    steps.note({"forward": before + 64 * KIB, "loss": before}, grown_bytes=0)
    run.step()
    assert run.recomputation.plan.peak_bytes == before + 64 * KIB


def test_a_plan_that_a_neighbour_enforced_is_measured_too(monkeypatch, needed):
    run = Run(monkeypatch, free=10 * needed)
    run.first_steps()
    run.step()
    assert run.recomputation.first_steps is None
    run.free = needed * 3 // 4
    run.step()
    assert run.recomputation.plan.dropped
    assert run.recomputation.first_steps is not None


def test_plans_are_not_measured_for_ever(monkeypatch, needed):
    run = Run(monkeypatch, free=needed)
    for _ in range(MOST_LEARNED + 1):
        run.first_steps(more_bytes=needed // 16)
    assert run.recomputation.first_steps is None
    assert run.recomputation.history.count("plan") <= MOST_LEARNED


def test_after_measuring_costs_are_milliseconds(monkeypatch, needed):
    run = Run(monkeypatch, free=10 * needed)
    run.clock.first_call_ms = 7.0
    run.first_steps()
    run.step()
    measured = run.recomputation.known.measured
    assert measured.convolution_ms == (7.0, 1.0, 1.0, 1.0)
    assert measured.forward_ms == 14.0


def test_what_came_into_use_since_the_plan_was_made_is_not_held_against_it(monkeypatch, needed):
    run = Run(monkeypatch, free=10 * needed)
    run.step()
    run.allocated = 100 * KIB  # the optimizer's state
    run.first_steps()
    run.step()
    assert run.recomputation.known.measured.loss_excess_bytes == 0


def test_marks_that_have_not_passed_are_read_later(monkeypatch, needed):
    run = Run(monkeypatch, free=10 * needed)
    run.clock.passed = False
    run.first_steps()
    run.step()
    assert run.recomputation.known.measured is None
    run.clock.passed = True
    run.step()
    assert run.recomputation.known.measured is not None


def test_a_failed_attempt_is_not_measured(monkeypatch, needed):
    run = Run(monkeypatch, free=10 * needed)
    run.step()
    with pytest.raises(RuntimeError):
        run.step(fails=True)
    for _ in range(MEASURED_STEPS - 1):
        run.step()
    run.step()
    assert run.recomputation.known.measured is None
    run.step()
    assert run.recomputation.known.measured is not None


def test_nothing_is_measured_once_that_is_done(monkeypatch, needed):
    run = Run(monkeypatch, free=10 * needed)
    run.first_steps()
    marks = run.clock.marks
    run.step()
    run.step()
    assert marks == 3 * CALLS * MEASURED_STEPS
    assert run.clock.marks == marks


def test_another_run_begins_with_what_was_measured(monkeypatch, needed, tmp_path, capsys):
    first = Run(monkeypatch, free=10 * needed, cache=tmp_path)
    first.first_steps(more_bytes=64 * KIB)
    first.step()
    second = Run(monkeypatch, free=10 * needed, cache=tmp_path)
    second.recomputation.before(SHAPE)
    assert second.recomputation.known.measured == first.recomputation.known.measured
    assert second.recomputation.plan.peak_bytes == first.recomputation.plan.peak_bytes
    assert "measured by an earlier run" in capsys.readouterr().err


def test_a_run_that_agrees_with_an_earlier_one_leaves_its_file_alone(monkeypatch, needed, tmp_path):
    def written_at_ns(more_bytes: int) -> int:
        run = Run(monkeypatch, free=10 * needed, cache=tmp_path)
        run.first_steps(more_bytes)
        run.step()
        (file,) = tmp_path.iterdir()
        return file.stat().st_mtime_ns

    assert written_at_ns(64 * KIB) == written_at_ns(0)


def test_what_parts_of_a_batch_need_does_not_replace_what_the_whole_one_did(monkeypatch, needed, tmp_path):
    whole = Run(monkeypatch, free=10 * needed, cache=tmp_path)
    whole.first_steps(more_bytes=64 * KIB)
    whole.step()
    (file,) = tmp_path.glob("*.json")
    kept = file.read_text()
    cut = Run(monkeypatch, free=needed // 3, cache=tmp_path)
    cut.first_steps(more_bytes=-needed // 16)
    cut.step()
    assert cut.recomputation.plan.parts > 1
    assert cut.recomputation.times_learned == 1
    assert file.read_text() == kept


def test_what_parts_need_is_corrected_by_a_run_with_as_many_or_larger_parts(monkeypatch, needed, tmp_path):
    kept = []
    for more_bytes in (0, needed // 16, needed // 8):
        cut = Run(monkeypatch, free=needed // 3, cache=tmp_path)
        cut.first_steps(more_bytes)
        cut.step()
        (file,) = tmp_path.glob("*.json")
        kept.append(file.read_text())
    assert len(set(kept)) == 3


def test_where_nothing_else_is_known_what_parts_need_is_kept(monkeypatch, needed, tmp_path):
    cut = Run(monkeypatch, free=needed // 3, cache=tmp_path)
    cut.first_steps()
    cut.step()
    assert cut.recomputation.plan.parts > 1
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_a_file_that_can_not_be_read_is_ignored_and_that_is_said(tmp_path, capsys):
    key = {"device": "a card"}
    measured_cache.store(tmp_path, key, Measured((1.0,), (2.0,), 3, 4))
    (file,) = tmp_path.iterdir()
    for text in ('{"measured": {"convolution_ms": [1', "[]", json.dumps({"measured": {"convolution_ms": [1.0]}})):
        file.write_text(text)
        assert measured_cache.load(tmp_path, key, calls=1) is None
        assert capsys.readouterr().err.count("measures anew") == 1


def test_what_is_kept_comes_back_as_it_was_for_the_same_calls_only(tmp_path, capsys):
    key, kept = {"device": "a card"}, Measured((1.0, 0.5), (2.0, 0.25), -3, 4)
    measured_cache.store(tmp_path, key, kept)
    assert measured_cache.load(tmp_path, key, calls=2) == kept
    assert measured_cache.load(tmp_path, {"device": "another"}, calls=2) is None
    assert measured_cache.load(tmp_path, key, calls=3) is None
    assert "the model has 3" in capsys.readouterr().err


def test_a_measurement_is_of_one_model_batch_dtype_device_and_attention_backend(monkeypatch):
    chain = trace(Chain().train(), SHAPE, torch.float32)

    def key(traced: Trace = chain, dtype: torch.dtype = torch.float32) -> str:
        return json.dumps(measured_cache.key_of(traced, CPU, dtype))

    keys = [
        key(),
        key(traced=trace(Chain().train(), (4, *SHAPE[1:]), torch.float32)),
        key(traced=trace(Chain().train(), (8, 3, 64, 64), torch.float32)),
        key(traced=trace(nn.Sequential(Chain(), Conv(4, 4, 3)).train(), SHAPE, torch.float32)),
        key(dtype=torch.bfloat16),
    ]
    for name in ("plain", "a fused one"):
        monkeypatch.setattr(measured_cache.dispatch, "describe", lambda *_, name=name, **__: (name, "as in a test"))
        keys.append(key())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(measured_cache, "kernels_missing", lambda device: "not built")  # as on the CPU
    keys.append(json.dumps(measured_cache.key_of(chain, torch.device("cuda", 0), torch.float32)))
    assert len(set(keys)) == len(keys)
    assert keys[-2] == key()


def test_a_folder_that_can_not_be_written_to_ends_no_run(tmp_path, capsys):
    (tmp_path / "memory").write_text("a file where the folder would be")
    measured_cache.store(tmp_path / "memory", {}, Measured((1.0,), (2.0,)))
    assert "not kept for the next run" in capsys.readouterr().err


def test_times_of_micro_batches_add_up():
    times = Times(Hand())
    for _ in range(2 * CALLS):
        times.begins()
        times.convolved()
        times.made(None, None, None)
    assert times.read(CALLS) == ([2.0] * CALLS, [2.0] * CALLS)


def test_marks_of_other_calls_than_the_models_are_no_measurement():
    times = Times(Hand())
    times.begins()
    times.convolved()
    times.made(None, None, None)
    assert times.read(CALLS) is None

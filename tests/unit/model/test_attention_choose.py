# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which backend serves which case, and what the user is told."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov12.errors import UserError
from yolov12.model.attention import backends
from yolov12.model.attention.backends import BACKENDS, Case
from yolov12.model.attention.choose import TABLE, as_markdown, choose, validated

FP16, BF16, FP32, FP64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


def gpu(major: int, minor: int, dtype: torch.dtype = FP16, training: bool = True, **more) -> Case:
    return Case("cuda", (major, minor), dtype, training, **more)


def cpu(dtype: torch.dtype = FP32, training: bool = True, **more) -> Case:
    return Case("cpu", None, dtype, training, **more)


def with_flash_attn(name: str, case: Case) -> str | None:
    """What is known against a backend where the flash_attn package is installed."""
    reason = backends.why_not(name, case)
    return None if name == "flash-attn" and reason == "not installed" else reason


def without_flash_attn(name: str, case: Case) -> str | None:
    return backends.why_not(name, case) or ("not installed" if name == "flash-attn" else None)


@pytest.mark.parametrize(
    ("case", "with_package", "without_package"),
    [
        (gpu(9, 0, FP16, training=True, large=True), "sdpa-cudnn", "sdpa-cudnn"),
        (gpu(9, 0, BF16, training=True, large=True), "sdpa-cudnn", "sdpa-cudnn"),
        (gpu(9, 0, BF16, training=True), "sdpa-flash", "sdpa-flash"),
        (gpu(8, 0, BF16, training=True, large=True), "flash-attn", "sdpa-flash"),
        (gpu(9, 0, FP16, training=False), "flash-attn", "sdpa-flash"),
        (gpu(8, 6, BF16, training=True), "flash-attn", "sdpa-flash"),
        (gpu(8, 0, FP16, training=False), "flash-attn", "sdpa-flash"),
        (gpu(10, 0, BF16, training=True), "flash-attn", "sdpa-flash"),
        (gpu(12, 0, FP16, training=True), "flash-attn", "sdpa-flash"),
        (gpu(7, 5, FP16, training=True), "sdpa-efficient", "sdpa-efficient"),
        (gpu(7, 5, FP16, training=False), "sdpa-efficient", "sdpa-efficient"),
        (gpu(7, 5, BF16, training=True), "plain", "plain"),
        (gpu(9, 0, FP32, training=True), "sdpa-efficient", "sdpa-efficient"),
        (gpu(7, 5, FP32, training=False), "sdpa-efficient", "sdpa-efficient"),
        (gpu(9, 0, FP64, training=True), "plain", "plain"),
        (gpu(9, 0, FP16, training=True, head_dim=20), "plain", "plain"),
        (gpu(9, 0, FP16, training=True, head_dim=192), "sdpa-flash", "sdpa-flash"),
        (cpu(FP32, training=True), "sdpa-cpu", "sdpa-cpu"),
        (cpu(FP64, training=False), "sdpa-cpu", "sdpa-cpu"),
        (cpu(BF16, training=False), "sdpa-cpu", "sdpa-cpu"),
        (cpu(BF16, training=True), "plain", "plain"),
        (cpu(FP16, training=True), "sdpa-cpu", "sdpa-cpu"),
        (Case("mps", None, FP16, False), "plain", "plain"),
    ],
    ids=str,
)
def test_the_best_backend_of(case, with_package, without_package):
    assert choose(case, "1", with_flash_attn).backend == with_package
    assert choose(case, "1", without_flash_attn).backend == without_package


def test_the_reason_names_the_backend_that_would_have_been_better_and_why_it_was_not_taken():
    reason = choose(gpu(9, 0, training=False), "1", without_flash_attn).reason
    assert reason.endswith("(flash-attn: not installed)")


def test_the_reason_says_when_nothing_was_measured_on_the_device():
    for case in (gpu(7, 5), gpu(8, 9), gpu(10, 0), gpu(12, 0)):
        assert f"not measured on {case.device}" in choose(case, "1", without_flash_attn).reason


def test_strict_determinism_excludes_a_kernel_without_a_deterministic_backward():
    choice = choose(gpu(9, 0, deterministic="strict", large=True), "1", without_flash_attn)
    assert choice.backend == "sdpa-flash"
    assert "sdpa-cudnn: has no deterministic backward" in choice.reason
    assert choose(gpu(9, 0, training=False, deterministic="strict"), "sdpa-cudnn").backend == "sdpa-cudnn"


def test_deterministic_training_as_ultralytics_asks_for_it_is_told_what_it_does_not_get():
    assert "differ in the last bits" in choose(gpu(9, 0, deterministic="warn"), "1").reason
    assert "differ in the last bits" in choose(gpu(9, 0, deterministic="warn"), "sdpa-flash").reason
    assert "last bits" not in choose(gpu(9, 0, deterministic="warn", training=False), "1").reason
    assert "last bits" not in choose(gpu(9, 0, deterministic="off"), "1").reason
    assert "last bits" not in choose(gpu(8, 0, deterministic="warn"), "1", with_flash_attn).reason


def test_a_backend_that_fails_its_trial_run_is_passed_over_with_its_error():
    def broken_cudnn(name: str, case: Case) -> str | None:
        return "failed a trial run: no plan" if name == "sdpa-cudnn" else without_flash_attn(name, case)

    choice = choose(gpu(9, 0, large=True), "1", broken_cudnn)
    assert choice.backend == "sdpa-flash"
    assert "sdpa-cudnn: failed a trial run: no plan" in choice.reason


def test_zero_is_plain_everywhere():
    assert choose(gpu(9, 0), "0") == ("plain", "YOLOV12_FLASH_ATTN=0")
    assert choose(cpu(), "0").backend == "plain"


def test_a_backend_asked_for_by_name_is_taken():
    assert choose(gpu(9, 0), "sdpa-efficient") == ("sdpa-efficient", "YOLOV12_FLASH_ATTN=sdpa-efficient")


@pytest.mark.parametrize(
    ("case", "request_", "why", "can"),
    [
        (gpu(7, 5), "sdpa-flash", "needs sm_80 or newer for fp16", "plain, sdpa-efficient"),
        (gpu(9, 0, FP32), "sdpa-cudnn", "takes fp16 or bf16, not fp32", "plain, sdpa-efficient"),
        (gpu(9, 0), "flash-attn", "is not installed", "plain, sdpa-flash, sdpa-cudnn, sdpa-efficient"),
        (gpu(9, 0), "sdpa-cpu", "runs on cpu devices only", "plain, sdpa-flash, sdpa-cudnn, sdpa-efficient"),
        (gpu(9, 0, head_dim=36), "sdpa-flash", "takes head_dim 8, 16, ... 256, not 36", "plain"),
        (cpu(), "sdpa-flash", "runs on cuda devices only", "plain, sdpa-cpu"),
    ],
)
def test_a_backend_that_can_not_run_is_refused_with_the_reason_and_what_can(case, request_, why, can):
    with pytest.raises(UserError) as refusal:
        choose(case, request_, without_flash_attn)
    message = str(refusal.value)
    assert f"YOLOV12_FLASH_ATTN={request_}" in message
    assert why in message
    assert f"These can: {can}." in message


def test_while_a_model_is_built_on_the_cpu_beside_a_gpu_a_gpu_backend_is_no_mistake():
    choice = choose(cpu(beside_gpu=True), "sdpa-flash")
    assert choice.backend == "sdpa-cpu"
    assert "sdpa-flash is for the GPU" in choice.reason


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(UserError, match=r"YOLOV12_FLASH_ATTN=sdpa-flsh is unknown. Did you mean sdpa-flash\?"):
        validated("sdpa-flsh")
    with pytest.raises(UserError, match=r"Use 1 .* 0 .* or one of: plain, flash-attn"):
        validated("xyz")


CASES = [
    Case(device, capability, dtype, training, head_dim, deterministic, large=large)
    for (device, capability), dtype, training, head_dim, deterministic, large in itertools.product(
        [("cpu", None), ("mps", None), *(("cuda", sm) for sm in [(7, 0), (7, 5), (8, 0), (8, 9), (9, 0), (12, 1)])],
        [FP16, BF16, FP32, FP64],
        [True, False],
        [8, 20, 32, 160],
        ["off", "warn", "strict"],
        [True, False],
    )
]


@settings(deadline=None, max_examples=300)
@given(case=st.sampled_from(CASES), installed=st.booleans())
def test_the_best_is_always_one_that_can_run_and_has_a_reason(case, installed):
    why_not = with_flash_attn if installed else without_flash_attn
    choice = choose(case, "1", why_not)
    assert why_not(choice.backend, case) is None
    assert choice.reason
    assert "{" not in choice.reason


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.backend} {row.reason[:30]}")
def test_no_row_of_the_table_is_dead(row):
    # one backend missing or not: what can happen on the machines that the table speaks about
    for case, missing in itertools.product(CASES, [None, *BACKENDS]):
        if not row.matches(case):
            continue

        def why_not(name: str, case: Case, missing: str | None = missing) -> str | None:
            gone = name == missing or (missing == "sdpa-cudnn" and name == "flash-attn")
            return "missing" if gone else with_flash_attn(name, case)

        words = row.reason.format(device=case.device)
        choice = choose(case, "1", why_not)
        if choice.backend == row.backend and choice.reason.startswith(words):
            return
    pytest.fail("no case gets this row")


def test_the_table_in_the_docs_is_the_one_in_the_code(repository):
    page = (repository / "docs" / "attention.md").read_text()
    assert as_markdown() in page, (
        "run `python -m yolov12.model.attention.choose` and put its output into docs/attention.md"
    )


def test_the_docs_name_every_backend(repository):
    page = (repository / "docs" / "attention.md").read_text()
    assert all(f"`{name}`" in page for name in BACKENDS)

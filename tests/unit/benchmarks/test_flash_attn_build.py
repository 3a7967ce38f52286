# SPDX-License-Identifier: AGPL-3.0-or-later
"""flash_attn_build and flash_attn_archs: what is extrapolated, which archs there are, and what is missing."""

from __future__ import annotations

import ast

import pytest

from benchmarks import harness, system
from benchmarks.harness import Job


def test_files_that_were_not_compiled_count_as_their_nearest_kind():
    program = harness.discover()["flash_attn_build"].run_side.__globals__
    sample_s = {
        "flash_fwd_hdim32_fp16_sm80.cu": 1.0,
        "flash_fwd_hdim128_fp16_sm80.cu": 10.0,
        "flash_bwd_hdim32_fp16_sm80.cu": 100.0,
    }
    files = ["flash_fwd_hdim64_bf16_sm80.cu", "flash_fwd_hdim192_fp16_causal_sm80.cu", "flash_bwd_hdim256_fp16_sm80.cu"]
    assert program["extrapolated_s"](files, sample_s) == 1.0 + 10.0 + 100.0


@pytest.mark.parametrize("name", ["flash_attn_build", "flash_attn_archs"])
def test_a_flash_attention_build_without_its_sources_says_what_to_name(name, tmp_path):
    job = Job("ours", {"cuda_home": str(tmp_path), "sdist": str(tmp_path / "none.tar.gz")}, (), tmp_path, 0.0)
    with pytest.raises(harness.BenchmarkError, match=r"there is no sdist .*FLASH_ATTN_SDIST=PATH"):
        harness.discover()[name].run_side(job)


def test_the_wheel_is_measured_for_each_arch_that_has_code_of_its_own_and_for_all_of_them():
    archs = harness.discover()["flash_attn_archs"].run_side.__globals__["ARCHS"]
    source = (system.ROOT / "docker/flash_attn/build.py").read_text()
    (served,) = (line for line in source.splitlines() if line.startswith("CODE_FOR = "))
    codes = {code for code in ast.literal_eval(served.partition("=")[2].strip()).values() if code}
    assert {f"sm{code}": code for code in codes} == {name: code for name, code in archs.items() if name != "all"}
    assert set(archs["all"].split()) == codes

# SPDX-License-Identifier: AGPL-3.0-or-later
"""NCCL's flight recorder is asked for before the groups are made, and what the user has set stays. Needs no GPU: these are variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolov12.distributed import flight


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YOLOV12_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_it_is_switched_on_and_the_place_is_said(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environ: dict[str, str] = {}
    flight.record(environ)
    assert environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    assert int(environ["TORCH_FR_BUFFER_SIZE"]) > 0
    assert environ["TORCH_FR_DUMP_TEMP_FILE"] == f"{cache}/nccl/flight-recorder-rank"
    assert (cache / "nccl").is_dir()
    assert f"{cache}/nccl/flight-recorder-rankN" in capsys.readouterr().err


def test_what_the_user_set_stays(cache: Path) -> None:
    theirs = {
        "TORCH_NCCL_TRACE_BUFFER_SIZE": "7",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": "/tmp/x",
    }
    environ = dict(theirs)
    flight.record(environ)
    assert environ == {**theirs, "TORCH_FR_BUFFER_SIZE": "7"}
    assert not (cache / "nccl").exists()

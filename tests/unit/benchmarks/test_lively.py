# SPDX-License-Identifier: AGPL-3.0-or-later
"""Networks that find something: the process that makes one finds what its parent finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import lively
from benchmarks.harness import BenchmarkError


def test_packages_that_only_pythonpath_names_are_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ultralytics.py").write_text("raise ImportError('the one that PYTHONPATH names')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="the one that PYTHONPATH names"):
        lively.write("yolo12n.yaml", 64, tmp_path / "n.pt")

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes each `@test` of a .bats file a test of pytest. To run one file without it: `.venv/bin/bats tests/shell/entrypoint.bats`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix == ".bats":
        return BatsFile.from_parent(parent, path=file_path)
    return None


class BatsFile(pytest.File):
    """One file, which is run once, when the first of its cases asks for its outcome."""

    def collect(self) -> Iterator[BatsCase]:
        for name in re.findall(r'^@test "(.+)" \{$', self.path.read_text(), re.MULTILINE):
            yield BatsCase.from_parent(self, name=name)

    @cached_property
    def output(self) -> str:
        """What bats printed, in the form of the Test Anything Protocol."""
        bats = shutil.which("bats", path=str(Path(sys.executable).parent)) or shutil.which("bats")
        if bats is None:
            pytest.skip("bats is not installed (make setup installs it)")
        return subprocess.run(
            [bats, "--formatter", "tap", self.path], capture_output=True, text=True, check=False
        ).stdout

    def outcome(self, name: str) -> tuple[str, str]:
        """passed, skipped or failed, and what bats says of it."""
        found = re.search(rf"^(not )?ok \d+ {re.escape(name)}(?: # skip (.*))?$((?:\n#.*)*)", self.output, re.MULTILINE)
        if found is None:
            return "failed", f"bats did not run it:\n{self.output}"
        if found[2] is not None:
            return "skipped", found[2]
        return "failed" if found[1] else "passed", found[3].strip()


class BatsCase(pytest.Item):
    parent: BatsFile

    def runtest(self) -> None:
        outcome, says = self.parent.outcome(self.name)
        if outcome == "skipped":
            pytest.skip(says)
        if outcome == "failed":
            raise BatsFailure(says)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> str:
        return str(excinfo.value) if isinstance(excinfo.value, BatsFailure) else str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


class BatsFailure(Exception):
    """A case failed; the message is what bats printed."""

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Why a benchmark, or all of them, can not be run, each with its exit code."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A benchmark can not be run as asked. The message says what to type."""

    exit_code = 2


class RecordsError(BenchmarkError):
    """The folder of records can not be written to."""


class DiskFullError(RecordsError):
    """It could, with some room."""

    exit_code = 75

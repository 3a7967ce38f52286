# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lock of a cache's entry, also where it is removed while somebody waits for it. Files that are opened twice are as of two processes."""

from __future__ import annotations

import threading

from yolov12.export.lock import held, held_at_once


def test_who_waits_for_a_lock_that_is_removed_holds_the_next_one_of_that_name(tmp_path):
    path, waits, seen = tmp_path / "entry.lock", threading.Event(), []

    def second() -> None:
        with held(path, "an engine is built", tell=lambda line: waits.set()), held_at_once(path) as is_free:
            seen.append((path.read_text().startswith("process "), is_free))

    thread = threading.Thread(target=second)
    with held(path, "an engine is built"):
        thread.start()
        assert waits.wait(10)
        path.unlink()
    thread.join(10)
    assert seen == [(True, False)]


def test_a_lock_that_nobody_has_is_held_at_once(tmp_path):
    with held_at_once(tmp_path / "entry.lock") as first, held_at_once(tmp_path / "entry.lock") as second:
        assert (first, second) == (True, False)

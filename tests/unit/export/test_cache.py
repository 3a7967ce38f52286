# SPDX-License-Identifier: AGPL-3.0-or-later
"""The cache of engines, with bytes that stand for plans."""

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from yolov12.export import cache
from yolov12.export.lock import held, held_at_once

KEY = {"model": "abc", "gpu": "sm_90", "builder": "tensorrt 11.4"}


def build_counted(folder, key=KEY, plan=b"plan", **options):
    """What get_or_build gives, and how often it built."""
    built = []

    def build():
        built.append(plan)
        return plan

    return cache.get_or_build(folder, key, build, **options), len(built)


def test_the_second_time_nothing_is_built(tmp_path):
    assert build_counted(tmp_path) == ((b"plan", "built"), 1)
    (plan, source), built = build_counted(tmp_path)
    assert (plan, built) == (b"plan", 0)
    assert source.startswith("from the cache")


@pytest.mark.parametrize("part", KEY)
def test_whatever_an_engine_depends_on_makes_another_entry(tmp_path, part):
    build_counted(tmp_path)
    assert build_counted(tmp_path, KEY | {part: "other"}) == ((b"plan", "built"), 1)


@pytest.mark.parametrize("damaged", [b"", b"pla", b"plaN"])
def test_a_plan_that_was_cut_or_changed_is_built_again_with_the_reason(tmp_path, capsys, damaged):
    build_counted(tmp_path)
    (tmp_path / f"{cache.name_of(KEY)}.plan").write_bytes(damaged)
    assert len(cache.verify(tmp_path)) == 1
    assert build_counted(tmp_path) == ((b"plan", "built"), 1)
    assert "engine cache: built again: " in capsys.readouterr().err
    assert cache.verify(tmp_path) == []


@pytest.mark.parametrize("record", ["", "[]", '{"key": {}}', '{"key": 1, "sha256": "", "bytes": 1}'])
def test_a_record_that_can_not_be_read_is_made_again(tmp_path, record):
    build_counted(tmp_path)
    (tmp_path / f"{cache.name_of(KEY)}.json").write_text(record)
    assert build_counted(tmp_path) == ((b"plan", "built"), 1)


def test_an_entry_that_somebody_put_there_is_not_loaded(tmp_path, capsys):
    """It is consistent with itself, but nobody here built it."""
    name, plan = cache.name_of(KEY), b"foreign code"
    (tmp_path / f"{name}.plan").write_bytes(plan)
    record = {"key": KEY, "sha256": cache.digest(plan), "bytes": len(plan)}
    (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert build_counted(tmp_path) == ((b"plan", "built"), 1)
    assert "was not made here" in capsys.readouterr().err


def test_an_entry_under_the_name_of_another_key_is_not_loaded(tmp_path):
    build_counted(tmp_path)
    other = KEY | {"gpu": "sm_80"}
    for suffix in ("plan", "json"):
        (tmp_path / f"{cache.name_of(KEY)}.{suffix}").rename(tmp_path / f"{cache.name_of(other)}.{suffix}")
    assert cache.load(tmp_path, other)[1].endswith("is of another engine")


def test_what_was_used_longest_ago_goes_first(tmp_path):
    for age, gpu in enumerate(("new", "middle", "old")):
        build_counted(tmp_path, KEY | {"gpu": gpu})
        os.utime(tmp_path / f"{cache.name_of(KEY | {'gpu': gpu})}.json", (1000 - age, 1000 - age))
    assert [entry.key["gpu"] for entry in cache.prune(tmp_path, 8)] == ["old"]
    cache.load(tmp_path, KEY | {"gpu": "middle"})
    assert [entry.key["gpu"] for entry in cache.prune(tmp_path, 4)] == ["new"]


def test_a_plan_that_is_larger_than_the_limit_stays_until_the_next_one(tmp_path):
    build_counted(tmp_path, limit_bytes=1)
    assert [entry.plan_bytes for entry in cache.entries(tmp_path)[0]] == [4]
    build_counted(tmp_path, KEY | {"gpu": "other"}, limit_bytes=1)
    assert [entry.key["gpu"] for entry in cache.entries(tmp_path)[0]] == ["other"]


def timed(folder, content, used_s, **measured_by):
    path = cache.timing_file(folder, {"builder": "tensorrt 11.4"} | measured_by)
    path.write_bytes(content)
    os.utime(path, (used_s, used_s))
    return path


def test_timings_count_and_go_as_engines_do(tmp_path):
    build_counted(tmp_path)
    os.utime(tmp_path / f"{cache.name_of(KEY)}.json", (2000, 2000))
    old, new = timed(tmp_path, b"old", 1000, gpu="a"), timed(tmp_path, b"new", 3000, gpu="b")
    assert cache.prune(tmp_path, 10) == []
    assert cache.prune(tmp_path, 9) == [cache.Timing(old.name, 3, 1000)]
    assert [one.name for one in cache.prune(tmp_path, 3)] == [cache.name_of(KEY)]
    assert cache.timings(tmp_path) == [cache.Timing(new.name, 3, 3000)]
    assert len(cache.prune(tmp_path, 0)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [cache.LEDGER]


def test_an_entry_is_found_where_its_use_can_not_be_noted(tmp_path, monkeypatch):
    build_counted(tmp_path)

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", read_only)
    (plan, _), built = build_counted(tmp_path)
    assert (plan, built) == (b"plan", 0)


def test_a_plan_that_was_pruned_is_still_known_as_ours(tmp_path):
    build_counted(tmp_path)
    cache.prune(tmp_path, 0)
    assert cache.entries(tmp_path) == ([], [])
    assert cache.is_ours(tmp_path, b"plan")
    assert not cache.is_ours(tmp_path, b"another plan")


def test_what_is_no_entry_is_swept_when_the_next_one_is_built(tmp_path):
    (tmp_path / f"{'a' * 32}.plan").write_bytes(b"its record was never written")
    (tmp_path / f"{'b' * 32}.json").write_text("{")
    (tmp_path / f"{'b' * 32}.plan").write_bytes(b"its record can not be read")
    build_counted(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {cache.name_of(KEY), "made"}
    assert cache.load(tmp_path, KEY) == (b"plan", "")


def test_a_plan_whose_record_is_about_to_be_written_is_not_swept(tmp_path):
    name = "c" * 32
    (tmp_path / f"{name}.plan").write_bytes(b"plan")
    with held(tmp_path / f"{name}.lock", ""):
        assert cache.sweep(tmp_path) == []
    assert cache.sweep(tmp_path) == [name]


def test_files_of_the_users_own_are_not_swept(tmp_path):
    for name in ("annotations.json", "mine.plan", "timing-of-mine.cache", cache.ALSO):
        (tmp_path / name).write_text("{}")
    assert cache.sweep(tmp_path) == []
    assert cache.prune(tmp_path, 0) == []
    assert cache.verify(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 4


def test_what_is_being_built_is_not_pruned(tmp_path):
    build_counted(tmp_path)
    with held(tmp_path / f"{cache.name_of(KEY)}.lock", ""):
        assert cache.prune(tmp_path, 0) == []


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_does_not_cost_the_engine_and_leaves_no_half_of_an_entry(tmp_path, monkeypatch, capsys):
    write = Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda path, text: full() if ".json" in path.name else write(path, text))
    monkeypatch.setattr("yolov12.export.lock.os.write", full)
    assert build_counted(tmp_path) == ((b"plan", "built"), 1)
    place = tmp_path / cache.name_of(KEY)
    assert capsys.readouterr().err.splitlines() == [
        "WARNING engine cache: this engine is not kept, and is built again the next time: "
        f"no room to save {place}.json (No space left on device)"
    ]
    assert {path.name for path in tmp_path.iterdir()} == {f"{place.name}.lock", cache.LEDGER}
    assert cache.is_ours(tmp_path, b"plan")


def test_where_not_even_a_lock_can_be_made_the_engine_is_built(tmp_path, capsys):
    """As on a full disk, on which the folder could not be made."""
    (tmp_path / "a file").touch()
    for folder in (tmp_path / "nowhere", tmp_path / "a file"):  # in which a name can not even be removed
        assert build_counted(folder) == ((b"plan", "built"), 1)
        assert "engine cache: no lock, so another process may build the same: " in capsys.readouterr().err


def test_this_process_knows_its_engine_where_the_ledger_is_full_and_says_that_no_other_does(tmp_path, capsys):
    (tmp_path / cache.LEDGER).symlink_to("/dev/full")
    build_counted(tmp_path)
    assert cache.is_ours(tmp_path, b"plan")
    assert not cache.is_ours(tmp_path / "other", b"plan")
    assert "it loads with YOLOV12_TRUST_WEIGHTS=1 alone" in capsys.readouterr().err


def test_what_a_full_disk_cut_off_in_the_ledger_does_not_spoil_the_next_line(tmp_path):
    (tmp_path / cache.LEDGER).write_text("0123")
    cache.remember(tmp_path, b"plan")
    assert (tmp_path / cache.LEDGER).read_text().split() == ["0123", cache.digest(b"plan")]


def test_timings_that_have_no_room_are_told_and_no_failure(tmp_path, capsys):
    cache.keep_timings(tmp_path / "nowhere" / "timing", b"measured")
    assert "engine cache: TensorRT's timings are not kept" in capsys.readouterr().err


def test_a_build_that_fails_leaves_no_entry_and_no_lock_behind(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cache.get_or_build(tmp_path, KEY, lambda: 1 // 0)
    assert cache.entries(tmp_path) == ([], [])
    with held_at_once(tmp_path / f"{cache.name_of(KEY)}.lock") as is_free:
        assert is_free


def _build_slowly(folder, started, finish, told):
    def build():
        started.set()
        finish.wait(20)
        return b"plan"

    told.put(cache.get_or_build(folder, KEY, build)[1])


def test_two_processes_build_once_and_the_second_says_who_does(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    started, finish, told = context.Event(), context.Event(), context.Queue()
    other = context.Process(target=_build_slowly, args=(tmp_path, started, finish, told))
    other.start()
    assert started.wait(20)
    lines = []

    def tell(line):
        lines.append(line)
        finish.set()  # only now: the lock was taken when this process came

    with held(tmp_path / f"{cache.name_of(KEY)}.lock", "this engine is being built", tell):
        pass
    other.join(20)
    assert told.get(timeout=5) == "built"
    assert f"this engine is being built in process {other.pid} on " in lines[0]
    assert build_counted(tmp_path)[1] == 0


# By another key


ALSO = {"source": "a file", "gpu": KEY["gpu"]}


def test_an_entry_is_found_by_another_key_that_was_noted(tmp_path):
    build_counted(tmp_path)
    assert cache.load_also(tmp_path, ALSO) is None
    cache.store_also(tmp_path, ALSO, KEY)
    assert cache.load_also(tmp_path, ALSO) == b"plan"
    assert cache.load_also(tmp_path, ALSO | {"source": "another"}) is None


def test_the_last_note_of_a_key_counts(tmp_path):
    build_counted(tmp_path)
    build_counted(tmp_path, KEY | {"model": "new"}, b"new plan")
    cache.store_also(tmp_path, ALSO, KEY)
    cache.store_also(tmp_path, ALSO, KEY | {"model": "new"})
    assert cache.load_also(tmp_path, ALSO) == b"new plan"


def test_a_note_that_leads_to_another_gpus_entry_is_not_followed(tmp_path):
    build_counted(tmp_path)
    cache.store_also(tmp_path, ALSO | {"gpu": "sm_80"}, KEY)
    assert cache.load_also(tmp_path, ALSO | {"gpu": "sm_80"}) is None


@pytest.mark.parametrize("line", ["", "{also}", "{also} ../../elsewhere", "{also} " + "0" * 32, "{also} {name} more"])
def test_a_note_that_leads_nowhere_is_none(tmp_path, line):
    build_counted(tmp_path)
    (tmp_path / cache.ALSO).write_text(line.format(also=cache.name_of(ALSO), name=cache.name_of(KEY)))
    assert cache.load_also(tmp_path, ALSO) is None


@pytest.mark.parametrize("harm", ["pruned", "changed"])
def test_a_note_of_what_is_gone_or_has_changed_is_none(tmp_path, harm):
    build_counted(tmp_path)
    cache.store_also(tmp_path, ALSO, KEY)
    if harm == "pruned":
        cache.prune(tmp_path, 0)
    else:
        (tmp_path / f"{cache.name_of(KEY)}.plan").write_bytes(b"plaN")
    assert cache.load_also(tmp_path, ALSO) is None


def test_notes_go_with_their_entries_and_the_last_of_a_key_stays(tmp_path):
    old, new = KEY | {"model": "old"}, KEY | {"model": "new"}
    for used_s, key in ((1000, old), (2000, new)):
        cache.store(tmp_path, key, b"plan")
        os.utime(tmp_path / f"{cache.name_of(key)}.json", (used_s, used_s))
    for also, key in ((ALSO, old), (ALSO, new), (ALSO | {"source": "another"}, old)):
        cache.store_also(tmp_path, also, key)
    (tmp_path / cache.ALSO).open("a").write("0123 4")
    cache.prune(tmp_path, 4)
    assert (tmp_path / cache.ALSO).read_text() == f"{cache.name_of(ALSO)} {cache.name_of(new)}\n"
    assert cache.load_also(tmp_path, ALSO) == b"plan"
    cache.prune(tmp_path, 0)
    assert not (tmp_path / cache.ALSO).exists()


def test_notes_that_can_not_be_written_anew_stay(tmp_path, monkeypatch):
    build_counted(tmp_path)
    cache.store_also(tmp_path, ALSO, KEY)
    cache.store_also(tmp_path, ALSO | {"source": "another"}, KEY | {"model": "gone"})
    monkeypatch.setattr(cache, "replacing", full)
    cache.prune(tmp_path, 10**9)
    assert cache.load_also(tmp_path, ALSO) == b"plan"


def test_a_note_that_has_no_room_is_no_failure(tmp_path):
    (tmp_path / cache.ALSO).symlink_to("/dev/full")
    cache.store_also(tmp_path, ALSO, KEY)

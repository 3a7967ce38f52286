# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 cache`, on entries with bytes that stand for plans."""

import pytest

from yolov12 import cli
from yolov12.export import cache

KEY = {"precision": "fp16", "builder": "tensorrt 11.4", "gpu": "sm_90 NVIDIA H100"}


@pytest.fixture
def engines(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV12_CACHE_DIR", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.pt").write_bytes(bytes(2**20))
    folder = tmp_path / "engines"
    folder.mkdir()
    cache.store(folder, KEY, bytes(2**20))
    return folder


def test_ls_shows_the_engines_and_the_other_folders(engines, capsys):
    assert cli.main(["cache", "ls"]) == 0
    first, entry, other = capsys.readouterr().out.splitlines()
    assert first == f"{engines}: 1 engines, graphs, packages and verdicts, 1.0 MiB"
    assert entry.startswith(f"  {cache.name_of(KEY)}      1.0 MiB  used 20")
    assert entry.endswith("fp16 tensorrt 11.4 sm_90 NVIDIA H100")
    assert other == f"{engines.parent / 'weights'}: 1.0 MiB"


def test_verify_finds_nothing_and_then_what_was_changed(engines, capsys):
    assert cli.main(["cache", "verify"]) == 0
    assert "1 engines, graphs, packages and verdicts in" in capsys.readouterr().out
    (engines / f"{cache.name_of(KEY)}.plan").write_bytes(b"\1" + bytes(2**20 - 1))
    assert cli.main(["cache", "verify"]) == 1
    assert "has changed since it was stored" in capsys.readouterr().out


def test_prune_removes_down_to_a_size(engines, capsys):
    assert cli.main(["cache", "prune", "max_gib=1"]) == 0
    assert "0 engines, graphs, packages and verdicts removed" in capsys.readouterr().out
    assert cli.main(["cache", "prune"]) == 0
    assert "1 engines, graphs, packages and verdicts removed" in capsys.readouterr().out
    assert cache.entries(engines) == ([], [])


def test_timings_are_shown_and_pruned(engines, capsys):
    timing = cache.timing_file(engines, {"builder": "tensorrt 11.4"})
    timing.write_bytes(bytes(2**19))
    assert cli.main(["cache", "ls"]) == 0
    shown = capsys.readouterr().out.splitlines()[2]
    assert shown.startswith(f"  {timing.name}      0.5 MiB  used 20")
    assert cli.main(["cache", "prune"]) == 0
    said = capsys.readouterr().out
    assert (
        f"1 engines, graphs, packages and verdicts and 1 files of timings removed from {engines}, 1.5 MiB; 0 are left"
        in said
    )
    assert not timing.exists()


def test_prune_removes_what_is_no_entry_too(engines, capsys):
    (engines / f"{'0' * 32}.json").write_text("{")
    assert cli.main(["cache", "ls"]) == 0
    assert "unreadable" in capsys.readouterr().out
    assert cli.main(["cache", "prune", "max_gib=1"]) == 0
    assert "1 are left; 1 without a record that can be read removed too" in capsys.readouterr().out
    assert not list(engines.glob("000*"))


@pytest.mark.parametrize("line", ["cache", "cache clear", "cache prune max_gib=-1", "cache prune max_gib=all"])
def test_another_word_or_size_is_refused(engines, capsys, line):
    assert cli.main(line.split()) == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert ("there is no `cache clear`" in said) == (line == "cache clear")

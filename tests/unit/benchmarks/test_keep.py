# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m benchmarks keep`: a log from some machine becomes a record that names no machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import benchmarks.__main__ as command
from benchmarks import keep, system

WHERE = ["--device", "nvidia-h200", "--commit", "58e218c", "--date", "2026-11-29"]
FIRST = "# pytest tests/gpu/test_stem.py, nvidia-h200, at 58e218c"


@pytest.fixture
def log(tmp_path) -> Path:
    path = tmp_path / "out.log"
    path.write_text("2 passed\n")
    return path


def kept(
    tmp_path: Path, log: Path, *arguments: str, name: str = "stem_tests", what: str = "pytest tests/gpu/test_stem.py"
) -> int:
    words = ["keep", str(log), name, what, "--records", str(tmp_path / "records"), *(arguments or WHERE)]
    return command.main(words)


def record_of(tmp_path: Path, name: str = "stem_tests.log") -> Path:
    return tmp_path / "records/2026-11-29-nvidia-h200" / name


def test_the_record_begins_with_what_was_run_where_and_at_which_commit(tmp_path, log, capsys):
    assert kept(tmp_path, log) == 0
    assert record_of(tmp_path).read_text() == f"{FIRST}\n2 passed\n"
    assert capsys.readouterr().out == f"wrote {record_of(tmp_path)}\n"
    assert log.read_text() == "2 passed\n"


def test_nothing_is_overwritten_and_further_logs_of_a_day_are_numbered(tmp_path, log):
    for text in ("first\n", "second\n", "third\n"):
        log.write_text(text)
        assert kept(tmp_path, log) == 0
    texts = [record_of(tmp_path, f"stem_tests{end}.log").read_text() for end in ("", "-2", "-3")]
    assert texts == [f"{FIRST}\n{text}\n" for text in ("first", "second", "third")]


def test_the_log_of_a_benchmark_is_not_overwritten_either(tmp_path, log):
    record_of(tmp_path).parent.mkdir(parents=True)
    record_of(tmp_path, "stem_tests.json").write_text("{}")
    assert kept(tmp_path, log) == 0
    assert record_of(tmp_path, "stem_tests-2.log").is_file()
    assert not record_of(tmp_path).exists()


def test_anybody_may_read_it_whatever_the_log_was_and_new_files_are_here(tmp_path, log):
    log.chmod(0o600)
    before = os.umask(0o077)
    try:
        kept(tmp_path, log)
    finally:
        os.umask(before)
    assert record_of(tmp_path).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("read /mnt/data/job and /opt/a/b/model.pt\n", ["read .../job and .../model.pt"]),
        ("File '/usr/lib/python3/site.py', line 3", ["File '.../site.py', line 3"]),
        ("see https://docs.example.com/a/b", ["see https://docs.example.com/a/b"]),
        ("tests/gpu/test_stem.py ..", ["tests/gpu/test_stem.py .."]),
        ("1/9\r5/9\r9/9 done\nnext", ["9/9 done", "next"]),
        ("windows\r\nends\r\n", ["windows", "ends"]),
        ("\x1b[1;32mPASSED\x1b[0m \x1b[?25lhidden\x1b[K", ["PASSED hidden"]),
        ("\x1b]0;a title\x07text \x1b]8;;https://x.y\x1b\\link\x1b]8;;\x1b\\", ["text link"]),
        ("\x1b(Bplain \x1b7saved\x1b8", ["plain saved"]),
        ("bell\x07 and\x08 null\x00, but\ta tab", ["bell and null, but\ta tab"]),
        ("\n\n  first\n\nlast  \n\n", ["  first", "", "last"]),
        ("on node17.cluster and node17, not node170", ["on <host> and <host>, not node170"]),
    ],
)
def test_what_belongs_to_a_machine_or_a_terminal_goes(raw, shown):
    assert keep.shown(raw, ["node17", "node17.cluster", ""]) == shown


def test_this_machines_name_goes_too_and_so_do_paths_in_what_was_run(tmp_path, log, monkeypatch):
    monkeypatch.setattr(system.socket, "gethostname", lambda: "gpu-box")
    log.write_text("worker on gpu-box and on far\n")
    assert kept(tmp_path, log, *WHERE, "--host", "far", what="python /srv/me/probe.py") == 0
    assert record_of(tmp_path).read_text() == (
        "# python .../probe.py, nvidia-h200, at 58e218c\nworker on <host> and on <host>\n"
    )


def test_bytes_that_are_no_text_do_not_stop_it(tmp_path, log):
    log.write_bytes(b"\xff\xfe2 passed\n")
    assert kept(tmp_path, log) == 0
    assert record_of(tmp_path).read_text().endswith("2 passed\n")


def test_device_commit_and_day_are_this_machines_where_nothing_is_said(tmp_path, log, monkeypatch):
    monkeypatch.setattr(system, "gpus", lambda: ["NVIDIA H200"])
    monkeypatch.setattr(system, "commit", lambda: "58e218c")
    assert kept(tmp_path, log, "--date", "2026-11-29") == 0
    assert record_of(tmp_path).read_text().startswith(FIRST)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "../stem"}, "error: NAME '../stem': type letters, digits, - and _, such as kernels_tests"),
        ({"what": " "}, "error: WHAT ' ': type in one line what was run"),
        ({"what": "\x1b[0m\x07"}, "error: WHAT '\\x1b[0m\\x07': type in one line what was run"),
        ({"what": "a\nb"}, "error: WHAT 'a\\nb': type in one line what was run"),
    ],
)
def test_what_can_not_be_kept_so_is_said_in_one_sentence(tmp_path, log, arguments, sentence, capsys):
    assert kept(tmp_path, log, **arguments) == 2
    assert capsys.readouterr().err.startswith(sentence)
    assert not (tmp_path / "records").exists()


def test_a_log_that_is_not_there_or_shows_nothing_is_said_in_one_sentence(tmp_path, log, capsys):
    assert kept(tmp_path, tmp_path / "no.log") == 2
    assert capsys.readouterr().err == f"error: LOG {tmp_path}/no.log: no such file or directory\n"
    log.write_text("\n\x1b[0m\n")
    assert kept(tmp_path, log) == 2
    assert "shows nothing" in capsys.readouterr().err
    assert not (tmp_path / "records").exists()


def test_without_a_gpu_the_device_must_be_told_and_without_a_commit_that(tmp_path, log, monkeypatch, capsys):
    monkeypatch.setattr(system, "gpus", lambda: [])
    assert kept(tmp_path, log, "--commit", "58e218c") == 2
    assert "type --device, such as nvidia-h200" in capsys.readouterr().err
    monkeypatch.setattr(system, "commit", lambda: "unknown")
    assert kept(tmp_path, log, "--device", "nvidia-h200") == 2
    assert "type --commit" in capsys.readouterr().err


def test_a_day_that_is_none_is_refused(tmp_path, log, capsys):
    with pytest.raises(SystemExit) as ended:
        kept(tmp_path, log, *WHERE[:4], "--date", "29.11.")
    assert ended.value.code == 2
    assert "'29.11.' is no day such as 2026-11-29" in capsys.readouterr().err

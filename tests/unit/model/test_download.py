# SPDX-License-Identifier: AGPL-3.0-or-later
"""Downloads against a server on this machine that misbehaves in the usual ways."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import multiprocessing
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from yolov12.errors import RetryableError, UserError
from yolov12.model import download

CHECKPOINT = b"PK\x03\x04" + bytes(range(256)) * 400


@dataclass
class Server:
    """What it answers, and what it was asked."""

    url: str = ""
    status: int = 200
    body: bytes = CHECKPOINT
    content_type: str = "application/octet-stream"
    claimed_bytes: int | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            self.send_response(state.status)
            self.send_header("Content-Type", state.content_type)
            self.send_header(
                "Content-Length", str(len(state.body) if state.claimed_bytes is None else state.claimed_bytes)
            )
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}/files/a.pt"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield state
        running.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YOLOV12_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def nothing_is_kept(cache: Path) -> bool:
    return not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_file_is_fetched_into_the_cache_with_its_size_and_hash_shown(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
):
    path = download.fetch("a-turbo.pt", server.url)
    assert path == cache / "a-turbo.pt"
    assert path.read_bytes() == CHECKPOINT
    shown = capsys.readouterr().err
    assert f"download: a-turbo.pt (0.1 MB) from {server.url}" in shown
    assert f"sha256 {hashlib.sha256(CHECKPOINT).hexdigest()} (hash not pinned, shown so that you can)" in shown
    assert "%" not in shown  # no bar when not a terminal


def test_what_is_in_the_cache_is_not_fetched_again(server: Server):
    download.fetch("a.pt", server.url)
    download.fetch("a.pt", server.url)
    assert len(server.asked) == 1


def test_the_cache_works_offline(server: Server, monkeypatch: pytest.MonkeyPatch):
    download.fetch("a.pt", server.url)
    monkeypatch.setenv("YOLOV12_OFFLINE", "1")
    assert download.fetch("a.pt", server.url).is_file()


def test_offline_asks_nobody_and_says_what_to_do(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("YOLOV12_OFFLINE", "1")
    with pytest.raises(UserError) as error:
        download.fetch("a.pt", server.url)
    assert f"fetch {server.url} yourself and put it at {cache / 'a.pt'}" in str(error.value)
    assert not server.asked


def test_a_body_that_breaks_off_is_retryable_and_not_kept(server: Server, cache: Path):
    server.claimed_bytes = len(CHECKPOINT) + 1000
    with pytest.raises(RetryableError, match=f"broke off after {len(CHECKPOINT)} of {len(CHECKPOINT) + 1000} bytes"):
        download.fetch("a.pt", server.url)
    assert nothing_is_kept(cache)


@pytest.mark.parametrize(
    ("status", "error"), [(404, UserError), (403, UserError), (429, RetryableError), (503, RetryableError)]
)
def test_a_refusal_of_the_server_is_final_or_retryable(
    server: Server, cache: Path, status: int, error: type[Exception]
):
    server.status = status
    with pytest.raises(error, match=f"answers {status}.*put it at {cache / 'a.pt'}"):
        download.fetch("a.pt", server.url)
    assert nothing_is_kept(cache)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("text/html; charset=utf-8", b"hello"), ("application/octet-stream", b"\n<!DOCTYPE html>")],
)
def test_a_web_page_is_refused(server: Server, cache: Path, content_type: str, body: bytes):
    server.content_type, server.body = content_type, body
    with pytest.raises(UserError, match="web page"):
        download.fetch("a.pt", server.url)
    assert nothing_is_kept(cache)


def test_an_empty_answer_is_refused(server: Server, cache: Path):
    server.body = b""
    with pytest.raises(RetryableError, match="0 of 0 bytes"):
        download.fetch("a.pt", server.url)
    assert nothing_is_kept(cache)


def test_weights_that_are_no_checkpoint_are_refused(server: Server, cache: Path):
    server.body = b"version https://git-lfs.github.com/spec/v1"
    with pytest.raises(UserError, match="is not a checkpoint"):
        download.fetch("a.pt", server.url)
    assert nothing_is_kept(cache)


def test_other_files_need_not_look_like_checkpoints(server: Server):
    server.body = b"nc: 80"
    assert download.fetch("a.yaml", server.url).read_bytes() == b"nc: 80"


def test_a_wrong_hash_is_refused(server: Server, cache: Path):
    with pytest.raises(UserError, match="expected 00ff"):
        download.fetch("a.pt", server.url, sha256="00ff")
    assert nothing_is_kept(cache)


def test_a_pinned_hash_is_said_to_be_right(server: Server, capsys: pytest.CaptureFixture[str]):
    download.fetch("a.pt", server.url, sha256=hashlib.sha256(CHECKPOINT).hexdigest())
    assert "(as pinned)" in capsys.readouterr().err


def test_nobody_listening_is_retryable_and_says_the_same_as_offline(cache: Path):
    with pytest.raises(RetryableError, match=f"can not reach .*put it at {cache / 'a.pt'}"):
        download.fetch("a.pt", "http://127.0.0.1:1/a.pt")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://localhost/a.pt"])
def test_only_the_web_is_fetched(url: str):
    with pytest.raises(UserError, match="only http and https"):
        download.fetch("a.pt", url)


def test_secrets_in_an_address_are_not_shown(server: Server, capsys: pytest.CaptureFixture[str]):
    download.fetch("a.pt", f"{server.url}?token=t0k3n")
    assert server.asked == ["/files/a.pt?token=t0k3n"]
    assert "t0k3n" not in capsys.readouterr().err


def test_a_full_disk_is_retryable_and_leaves_nothing(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
    class Full(io.FileIO):
        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("yolov12.model.download.open", lambda path, mode: Full(path, mode), raising=False)
    with pytest.raises(RetryableError, match="No space left on device"):
        download.fetch("a.pt", server.url)
    assert nothing_is_kept(cache)


def _fetch(url: str) -> None:
    download.fetch("a.pt", url)


def test_ranks_that_need_the_same_file_fetch_it_once(server: Server):
    ranks = [multiprocessing.get_context("fork").Process(target=_fetch, args=(server.url,)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * 4
    assert len(server.asked) == 1


def test_a_large_file_shows_a_line_per_quarter_in_a_log(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(download, "_LINES_ABOVE_BYTES", 1000)
    monkeypatch.setattr(download, "_CHUNK_BYTES", len(CHECKPOINT) // 10)
    download.fetch("a.pt", server.url)
    assert capsys.readouterr().err.count("% of 0.1 MB") == 4

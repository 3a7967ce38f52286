# SPDX-License-Identifier: AGPL-3.0-or-later
"""A sealed checkpoint loads as before, and no cut and no flipped bit goes unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolov12.model.seal import flaw, is_sealed, seal

CONTENT = {"epoch": 3, "weights": torch.arange(600.0), "empty": torch.zeros(0)}
REPEATED = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    torch.save(CONTENT, path)
    seal(path)
    return path


@pytest.mark.parametrize("options", [{}, {"mmap": True}, {"weights_only": False}])
def test_torch_loads_a_sealed_file(sealed: Path, options: dict[str, bool]) -> None:
    loaded = torch.load(sealed, **options)
    assert loaded["epoch"] == 3
    assert torch.equal(loaded["weights"], CONTENT["weights"])


def test_a_whole_file_has_no_flaw(sealed: Path) -> None:
    assert flaw(sealed) is None
    assert is_sealed(sealed)


def test_a_file_of_stock_has_none_either(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "stock.pt")
    assert flaw(tmp_path / "stock.pt") is None
    assert not is_sealed(tmp_path / "stock.pt")
    assert not is_sealed(tmp_path / "none.pt")


@REPEATED
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_is_seen_wherever_it_is(sealed: Path, share: float) -> None:
    cut = damaged(sealed, lambda content: content[: int(share * len(content))])
    assert flaw(cut)


@REPEATED
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_seen_wherever_it_is(sealed: Path, share: float, bit: int) -> None:
    def flip(content: bytes) -> bytes:
        place = int(share * len(content))
        return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]

    assert flaw(damaged(sealed, flip))


def test_a_flipped_bit_in_a_record_of_stocks_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "stock.pt"
    torch.save(CONTENT, path)
    values = CONTENT["weights"].numpy().tobytes()
    broken = damaged(path, lambda content: content.replace(values, values[:-1] + b"\x01"))
    assert "damaged" in str(flaw(broken))


@pytest.mark.parametrize("content", [b"", b"PK", b"\0" * 500])
def test_what_is_no_archive_is_said_to_be_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    assert "cut off or damaged" in str(flaw(tmp_path / "x.pt"))


def test_a_file_is_sealed_once(sealed: Path) -> None:
    with pytest.raises(ValueError, match="has a comment already"):
        seal(sealed)


def damaged(path: Path, change: Callable[[bytes], bytes]) -> Path:
    copy = path.with_name("damaged.pt")
    copy.write_bytes(change(path.read_bytes()))
    return copy

# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is packed and written is what torch.save would have written, and every reader of that reads it."""

from __future__ import annotations

import gc
import pickle
import weakref
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov12.engine import packing
from yolov12.engine.hostcopy import Copies
from yolov12.engine.packing import Packed
from yolov12.model import safeload

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.uint16]


def written(path: Path, content: dict[str, Any], more: tuple[str, Any] | None = None, with_more: bool = True) -> Path:
    copies = Copies()
    Packed(content, copies, more=more).save(path, copies.flats, with_more)
    return path


def read(path: Path) -> Any:
    return torch.load(path, weights_only=False)


def records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def some_of_everything() -> dict[str, Any]:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2).requires_grad_(False))
    optimizer = torch.optim.SGD(module[:2].parameters(), lr=0.1, momentum=0.9)
    module(torch.rand(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    ordered = OrderedDict(a=1)
    ordered.of = "an attribute"
    empty = OrderedDict()
    empty.of = "another"
    named = nn.Parameter(torch.ones(2))
    named.of = "a parameter's"
    return {
        "module": module,
        "optimizer": optimizer.state_dict(),
        "ordered": [ordered, empty, OrderedDict()],
        "tensors": [torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPES],
        "shapes": [torch.ones(()), torch.ones(0, 3), torch.ones(2, 0, 3, 1), torch.ones(2, 1, 3, 1)],
        "gradients": [torch.ones(2).requires_grad_(), named],
        "plain": {"epoch": 1, "path": Path("a"), "numbers": (1.5, None, True)},
    }


def test_the_file_is_torch_saves_to_the_byte(tmp_path: Path) -> None:
    content = some_of_everything()
    torch.save(content, tmp_path / "file.pt")
    expected = records(tmp_path / "file.pt")
    found = records(written(tmp_path / "file.pt", content))
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_tool_that_saves_one_tensor_of_a_file_saves_no_other(tmp_path: Path) -> None:
    found = read(written(tmp_path / "file.pt", {"tensors": [torch.rand(1000), torch.rand(2), torch.rand(0)]}))
    assert [tensor.untyped_storage().nbytes() for tensor in found["tensors"]] == [4000, 8, 0]


def test_tensors_can_share_a_storage_in_the_file(tmp_path: Path) -> None:
    tensors = [torch.rand(2, 3), nn.Parameter(torch.rand(4)), torch.arange(3)]
    copies = Copies()
    joined = copies.add(tensors)
    Packed({"tensors": tensors}, copies, joined=joined).save(tmp_path / "file.pt", copies.flats)
    assert [name for name in records(tmp_path / "file.pt") if name.startswith("data/")] == ["data/0", "data/1"]
    found = read(tmp_path / "file.pt")["tensors"]
    assert all(
        torch.equal(one, tensor) and type(one) is type(tensor) for one, tensor in zip(found, tensors, strict=True)
    )
    assert found[0].untyped_storage().nbytes() == 40


def test_what_is_written_does_not_follow_the_original(tmp_path: Path) -> None:
    module, stride = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), torch.tensor([8.0, 16.0])
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    copies = Copies()
    copies.add(module.parameters())  # the others are copied when they are met
    packed = Packed({"module": module, "stride": stride, "note": [1]}, copies)
    with torch.no_grad():
        module[0].weight.fill_(7)
    stride.zero_()
    module.append(nn.ReLU())
    packed.save(tmp_path / "file.pt", copies.flats)
    found = read(tmp_path / "file.pt")
    assert found["note"] == [1]
    assert found["stride"].tolist() == [8, 16]
    assert len(found["module"]) == 2
    assert isinstance(found["module"][0].weight, nn.Parameter)
    assert all(torch.equal(found["module"].state_dict()[name], tensor) for name, tensor in before.items())


def test_nothing_of_the_original_is_kept_alive() -> None:
    """It may lie on a GPU; and only the collector of reference cycles would find it then, some time."""
    tensor = torch.ones(3)
    alive = weakref.ref(tensor)
    packed = Packed({"tensor": [tensor]}, Copies())
    del tensor
    assert alive() is None
    del packed
    assert gc.isenabled()


def test_what_can_not_be_pickled_leaves_the_collector_on() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        Packed({"function": lambda: None}, Copies())
    assert gc.isenabled()


def test_one_tensor_in_two_places_stays_one(tmp_path: Path) -> None:
    shared = torch.rand(5)
    found = read(written(tmp_path / "file.pt", {"first": shared, "second": shared}, ("third", [shared])))
    assert found["first"] is found["second"]
    assert found["first"] is found["third"][0]


def test_some_files_have_one_entry_more(tmp_path: Path) -> None:
    content, more = {"a": torch.rand(3), "b": "text"}, {"seen": 8, "held": [torch.rand(2)]}
    all_of_it = read(written(tmp_path / "more.pt", content, ("more", more)))
    assert list(all_of_it) == ["a", "b", "more"]
    assert all_of_it["more"]["seen"] == 8
    assert torch.equal(all_of_it["more"]["held"][0], more["held"][0])
    less = written(tmp_path / "less.pt", content, ("more", more), with_more=False)
    assert list(read(less)) == ["a", "b"]
    assert [name for name in records(less) if name.startswith("data/")] == ["data/0"]


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_some_files_have_tensors_in_half_precision(tmp_path: Path, precision: torch.dtype) -> None:
    rounded, kept = nn.Parameter(torch.rand(2, 3)), torch.rand(4)
    copies = Copies()
    numbers = copies.add([rounded])
    packed = Packed({"rounded": rounded, "again": [rounded], "kept": kept}, copies, numbers)
    packed.save(tmp_path / "file.pt", [copies.flats[0].to(precision), *copies.flats[1:]])
    found = read(tmp_path / "file.pt")
    assert torch.equal(found["rounded"], rounded.to(precision))
    assert found["rounded"].dtype is precision
    assert found["again"][0] is found["rounded"]
    assert torch.equal(found["kept"], kept)


def test_readers_that_run_no_code_read_it(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {"a": torch.rand(3), "b": torch.arange(2)}
    path = written(tmp_path / "file.pt", {"plain": 1, **tensors}, ("more", [nn.Parameter(torch.rand(2))]))
    for found in (torch.load(path, weights_only=True), safeload.load(path)):
        assert list(found) == ["plain", "a", "b", "more"]
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_another_format_of_torch_save_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its archive would hold the tensors under other names than the pickle has for them."""

    class Other(packing._Ready):
        def dump(self, ready: Any) -> None:
            asked = self.persistent_id
            self.persistent_id = lambda storage: (*(asked(storage)[:2]), "another", "cpu", 1)
            super().dump(ready)

    monkeypatch.setattr(packing, "_Ready", Other)
    with pytest.raises(pickle.PicklingError, match="another format"):
        written(tmp_path / "file.pt", {"a": torch.rand(3)})


def test_ultralytics_torch_save_may_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure it calls torch's once more with the same arguments (utils/patches.py:236)."""
    save = torch.save

    def twice(*given: Any, **named: Any) -> None:
        save(*given, **named)
        save(*given, **named)

    monkeypatch.setattr(torch, "save", twice)
    assert read(written(tmp_path / "file.pt", {"a": torch.ones(3)}))["a"].tolist() == [1, 1, 1]

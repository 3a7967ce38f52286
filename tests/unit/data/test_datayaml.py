# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faults.bad_data import write_good
from yolov12.data import datayaml
from yolov12.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def upstream(file: Path | str) -> dict[str, Any]:
    """What stock ultralytics reads, without its font download."""
    import ultralytics.data.utils

    from yolov12.data import adapter

    adapter.install()
    return inspect.unwrap(ultralytics.data.utils.check_det_dataset)(str(file), autodownload=False)


LAYOUTS = {
    "relative to the yaml": "train: images/train\nval: images/val\nnames: [a, b]\n",
    "absolute path": "path: {root}\ntrain: images/train\nval: images/val\nnames: [a, b]\n",
    "path from the current folder": "path: set\ntrain: images/train\nval: images/val\nnames: [a, b]\n",
    "a list of folders": "train: [images/train, images/val]\nval: images/val\nnames: [a, b]\n",
    "an absolute split": "train: {root}/images/train\nval: images/val\nnames: [a, b]\n",
    "one folder too high": "train: ../images/train\nval: ../images/val\nnames: [a, b]\n",
    "validation instead of val": "train: images/train\nvalidation: images/val\nnames: [a, b]\n",
    "names as a mapping": "train: images/train\nval: images/val\nnames: {{1: b, 0: a}}\n",
    "names as numbers": "train: images/train\nval: images/val\nnames: [1, true]\n",
    "nc without names": "train: images/train\nval: images/val\nnc: 2\n",
    "path that says None": "path: None\ntrain: images/train\nval: images/val\nnames: [a, b]\n",
    "with a byte-order mark": "\ufefftrain: images/train\nval: images/val\nnames: [a, b]\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_and_names_are_those_of_upstream(layout: str, tmp_path: Path):
    root = tmp_path / "set"
    file = write_good(root, LAYOUTS[layout].format(root=root))
    ours, theirs = datayaml.load(file), upstream(file)
    assert ours.names == theirs["names"]
    for split in ("train", "val"):
        expected = theirs[split] if isinstance(theirs[split], list) else [theirs[split]]
        assert [str(place) for place in ours.splits[split]] == expected


def test_a_folder_stands_for_its_only_yaml(tmp_path: Path):
    file = write_good(tmp_path / "set")
    assert datayaml.load(tmp_path / "set").file == file


def test_a_folder_with_two_yamls_is_refused(tmp_path: Path):
    write_good(tmp_path / "set")
    (tmp_path / "set" / "other.yaml").write_text("")
    with pytest.raises(UserError, match="2 yaml files"):
        datayaml.load(tmp_path / "set")


@pytest.mark.parametrize("name", ["coco8", "coco8.yaml"])
def test_a_listed_data_set_that_is_not_here_is_not_fetched(name: str):
    with pytest.raises(UserError, match=r"does not exist; its `download:` names https://.*not fetched by itself"):
        datayaml.load(name)


@pytest.mark.parametrize("address", ["https://example.org/set.zip", "ul://someone/datasets/set"])
def test_an_address_is_not_fetched(address: str):
    with pytest.raises(UserError, match="is an address"):
        datayaml.load(address)


def test_an_archive_is_not_unpacked(tmp_path: Path):
    (tmp_path / "set.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(UserError, match="is an archive: unpack it"):
        datayaml.load("set.zip")


def test_a_picture_is_no_data_set(tmp_path: Path):
    picture = write_good(tmp_path / "set").parent / "images" / "train" / "0.jpg"
    with pytest.raises(UserError, match=r"is a picture: give the path of the data yaml"):
        datayaml.load(picture)


def test_the_place_of_a_syntax_error_is_told(tmp_path: Path):
    file = tmp_path / "data.yaml"
    file.write_text("train: a\nval: 'b\n")
    with pytest.raises(UserError, match=r"data\.yaml is not valid YAML: line 3, column 1"):
        datayaml.read(file)


@pytest.mark.parametrize("names", ["{}", "[]", "7", "cat", "{a: b}", "{0: a, 5: b}"])
def test_names_that_number_no_classes_are_refused(names: str, tmp_path: Path):
    file = write_good(tmp_path / "set", f"train: images/train\nval: images/val\nnames: {names}\n")
    with pytest.raises(UserError, match="names"):
        datayaml.load(file)


@pytest.mark.parametrize("value", [3, ["a", 4], {"a": 1}])
def test_a_split_that_is_no_path_is_refused(value: Any, tmp_path: Path):
    file = write_good(tmp_path / "set", yaml.safe_dump({"train": "images/train", "val": value, "names": ["a"]}))
    with pytest.raises(UserError, match="`val:`"):
        datayaml.load(file)

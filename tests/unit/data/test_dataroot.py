# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which folder a data yaml's paths start from, as `yolov12 data check` tells it, and that training then takes the same one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.bad_data import GOOD_YAML, write_good
from yolov12 import cli, log


@pytest.fixture(autouse=True)
def datasets_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the user's settings file of ultralytics names; the current folder is another, `here`."""
    import ultralytics.data.utils

    folder = tmp_path / "datasets"
    for module in (ultralytics.utils, ultralytics.data.utils):
        monkeypatch.setattr(module, "DATASETS_DIR", folder)
    monkeypatch.setattr(log, "_said", set())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def checked(yaml: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of `yolov12 data check`, and all that it said."""
    code = cli.main(["data", "check", str(yaml)])
    said = capsys.readouterr()
    return code, said.err + said.out


def yaml_beside_nothing(folder: Path, path: str) -> Path:
    """A yaml alone in `folder`, whose `path:` is `path`."""
    folder.mkdir()
    (folder / "data.yaml").write_text(f"path: {path}\n{GOOD_YAML}")
    return folder / "data.yaml"


def test_a_path_in_the_current_folder_is_taken_without_a_word(tmp_path: Path, capsys):
    write_good(tmp_path / "here" / "set")
    yaml = yaml_beside_nothing(tmp_path / "other", "set")
    code, said = checked(yaml, capsys)
    assert code == 0
    assert said == f"data: {yaml}: 2 classes; train 4 images with 8 objects, val 2 images with 4 objects\n"


def test_a_path_in_the_datasets_folder_is_taken_and_the_settings_file_is_named(tmp_path: Path, datasets_dir, capsys):
    from ultralytics.utils import SETTINGS_FILE

    write_good(datasets_dir / "set")
    code, said = checked(yaml_beside_nothing(tmp_path / "other", "set"), capsys)
    assert code == 0
    assert (
        f"`path: set` is not in {tmp_path}/here; {datasets_dir}/set is used, by datasets_dir of {SETTINGS_FILE}" in said
    )


def test_a_path_that_starts_from_the_yamls_folder_is_taken_and_that_is_said(tmp_path: Path, datasets_dir, capsys):
    write_good(tmp_path / "other" / "set")
    yaml = tmp_path / "other" / "data.yaml"
    yaml.write_text(f"path: set\n{GOOD_YAML}")
    code, said = checked(yaml, capsys)
    assert code == 0
    assert f"neither in {tmp_path}/here nor in {datasets_dir} (datasets_dir of " in said
    assert f"; {tmp_path}/other/set, in the yaml's own folder, is used" in said


def test_a_path_that_is_nowhere_gives_way_to_the_pictures_beside_the_yaml(tmp_path: Path, capsys):
    code, said = checked(write_good(tmp_path / "set", f"path: nowhere\n{GOOD_YAML}"), capsys)
    assert code == 0
    assert f"{tmp_path}/set, the yaml's own folder, has the pictures and is used" in said


def test_a_path_that_is_nowhere_names_each_place_that_was_tried_and_its_rule(tmp_path: Path, datasets_dir, capsys):
    from ultralytics.utils import SETTINGS_FILE

    code, said = checked(yaml_beside_nothing(tmp_path / "other", "nowhere"), capsys)
    assert code == 2
    assert (
        f"{tmp_path}/here/nowhere (from the current folder), {datasets_dir}/nowhere (from datasets_dir of {SETTINGS_FILE}), "
        f"{tmp_path}/other/nowhere (from the yaml's folder): correct it, or leave it out"
    ) in said


def test_a_path_that_exists_elsewhere_is_kept_and_the_pictures_beside_the_yaml_are_pointed_out(tmp_path: Path, capsys):
    code, said = checked(write_good(tmp_path / "set", f"path: .\n{GOOD_YAML}"), capsys)
    assert code == 2
    assert (
        f"means {tmp_path}/here/images/train, which does not exist, but {tmp_path}/set/images/train does: leave `path:` out"
        in said
    )


def test_an_absolute_path_that_is_nowhere_is_what_is_named(tmp_path: Path, capsys):
    code, said = checked(yaml_beside_nothing(tmp_path / "other", "/nowhere/set"), capsys)
    assert code == 2
    assert "`path: /nowhere/set` does not exist: correct it, or leave it out" in said


@pytest.mark.parametrize("path", ["", "path: {root}\n"])
@pytest.mark.parametrize("wrong", ["images/vla", "image/val", "Images/val"])
def test_a_slip_in_a_folders_name_is_answered_with_the_right_one(wrong: str, path: str, tmp_path: Path, capsys):
    text = path.format(root=tmp_path / "set") + GOOD_YAML.replace("images/val", wrong)
    code, said = checked(write_good(tmp_path / "set", text), capsys)
    assert code == 2
    assert f"`val:` means {tmp_path}/set/{wrong}, which does not exist: did you mean `val: images/val`?" in said


def test_a_folder_with_no_likely_name_is_answered_with_where_it_starts_from(tmp_path: Path, capsys):
    code, said = checked(write_good(tmp_path / "set", GOOD_YAML.replace("images/val", "images/xyz")), capsys)
    assert code == 2
    assert f"correct it; it starts from {tmp_path}/set (the yaml's own folder)" in said


@pytest.mark.parametrize("text", ["path: nowhere\n", "path: set\n", ""])
def test_training_takes_the_folder_that_the_check_took(text: str, tmp_path: Path):
    import ultralytics.data.utils

    from yolov12.data import adapter, datayaml

    adapter.install()
    root = tmp_path / "other" / ("set" if "set" in text else "")
    write_good(root)
    yaml = tmp_path / "other" / "data.yaml"
    yaml.write_text(text + GOOD_YAML)
    found = ultralytics.data.utils.check_det_dataset(str(yaml))
    assert (found["path"], found["train"]) == (root, str(root / "images" / "train"))
    assert datayaml.load(yaml).root == root

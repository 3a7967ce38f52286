# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who the container runs as, and where it may write."""

from pathlib import Path

import pytest

from tests.image.harness import STRANGER, Image, exists, mount

WHO = ("bash", "-c", "id -u; id -g; touch made-here && stat -c %u:%g made-here")


def test_root_becomes_the_owner_of_the_workspace(image: Image, foreign_workspace: Path):
    ran = image.run(*WHO, options=mount(foreign_workspace)).check()
    assert ran.out.split() == ["1001", "1002", "1001:1002"]
    assert (foreign_workspace / "made-here").stat().st_uid == 1001


def test_root_stays_root_when_asked_to(image: Image, foreign_workspace: Path):
    ran = image.run(*WHO, options=mount(foreign_workspace, "--env=YOLOV12_USER=root")).check()
    assert ran.out.split()[0] == "0"


def test_root_without_capabilities_says_that_it_stays_root(image: Image, foreign_workspace: Path):
    ran = image.run("id", "-u", options=mount(foreign_workspace, "--cap-drop=ALL"))
    assert ran.out == "0\n"
    assert "entrypoint: can not become 1001:1002" in ran.log


def test_root_without_a_mount_becomes_someone_who_is_not_root(image: Image):
    ran = image.run(*WHO).check()
    assert ran.out.split() == ["1000", "0", "1000:0"]


@pytest.mark.parametrize("user", ["1000:0", "12345:0", "12345:54321", "65534:65534"])
def test_any_user_can_work(image: Image, workspace: Path, user: str):
    program = "import getpass, pathlib, tempfile; getpass.getuser(); tempfile.TemporaryFile(dir=pathlib.Path.home()); print(pathlib.Path.cwd())"
    ran = image.run("python", "-c", program, options=mount(workspace, f"--user={user}")).check()
    assert ran.out == "/workspace\n"


def test_any_user_can_go_to_the_workbench(image: Image):
    ran = image.run("bash", "-c", "cd /root/yolov12 && ls train.py", options=("--user=12345:54321",)).check()
    assert ran.out == "train.py\n"


def test_group_0_can_write_in_the_workbench(image: Image):
    image.run("bash", "-c", "touch /root/yolov12/mine", options=("--user=12345:0",)).check()


def test_with_nothing_mounted_and_nothing_writable_it_says_where_it_works(image: Image):
    ran = image.run("pwd", options=STRANGER)
    assert ran.out == "/tmp/yolov12-12345/workspace\n"
    assert "entrypoint: /workspace is not mounted and not writable: working in /tmp/yolov12-12345/workspace" in ran.log


def test_without_a_place_for_temporary_files_it_says_what_to_add(image: Image):
    ran = image.run("true", options=("--read-only", "--user=12345:0"))
    assert ran.code == 0
    assert "add --tmpfs /tmp" in ran.log


def test_a_stranger_leaves_files_that_are_his(image: Image, workspace: Path):
    image.run("touch", "made-here", options=mount(workspace, *STRANGER)).check()
    assert (workspace / "made-here").stat().st_uid == 12345


def test_the_images_user_is_a_number(image: Image):
    assert image.inspect("{{.Config.User}}") == "0:0"


def test_the_nonroot_image_is_the_same_with_a_number_that_is_not_root_s(image: Image):
    if image.inspect('{{index .Config.Labels "yolov12.variant"}}') != "train":
        pytest.skip("train-nonroot is made of the variant train alone")
    nonroot = Image("yolov12:train-nonroot")
    if not exists(nonroot.name):
        pytest.skip("needs the image yolov12:train-nonroot (make build VARIANT=train-nonroot)")
    assert nonroot.inspect("{{.Config.User}}") == "1000:0"
    assert nonroot.inspect("{{json .RootFS.Layers}}") == image.inspect("{{json .RootFS.Layers}}")
    assert nonroot.run(*WHO).check().out.split() == ["1000", "0", "1000:0"]

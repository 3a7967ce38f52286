# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a record says of the machine and the code, and that it never says which machine it was."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import system

SHA = "0123456789abcdef0123456789abcdef01234567"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit that holds measured code and a page of documentation."""
    (tmp_path / "yolov12").mkdir()
    (tmp_path / "benchmarks" / "records").mkdir(parents=True)
    (tmp_path / "yolov12/step.py").write_text("speed = 1\n")
    (tmp_path / "README.md").write_text("slow\n")
    git(tmp_path, "init", "-q")
    commit_all(tmp_path)
    return tmp_path


def commit_all(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a change")
    return git(folder, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("Tesla T4", "tesla-t4"),
        ("NVIDIA A100-SXM4-40GB", "nvidia-a100-sxm4-40gb"),
    ],
)
def test_a_gpus_name_becomes_a_slug(name, slug):
    assert system.slug(name) == slug


def test_the_gpus_that_are_used_are_counted_and_not_those_that_are_there(monkeypatch):
    monkeypatch.setattr(system, "gpus", lambda: ["NVIDIA H200"] * 4)
    assert system.device(gpus_used=1) == "nvidia-h200"
    assert system.device(gpus_used=2) == "nvidia-h200-x2"


def test_a_benchmark_that_needs_no_gpu_is_a_cpus_even_beside_one(monkeypatch):
    monkeypatch.setattr(system, "gpus", lambda: ["NVIDIA H200"])
    assert system.device(gpus_used=0) == f"cpu-{system.cores()}-cores"


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert system.gpus() == []
    assert system.gpu_memory_gib() == 0
    assert "nvidia-driver" not in system.versions()


def test_a_gpus_memory_is_that_of_the_first(monkeypatch):
    said = ["81920 MiB", "24576 MiB"]
    monkeypatch.setattr(system, "_nvidia_smi", lambda field: {"memory.total": said}[field])
    assert system.gpu_memory_gib() == 80
    said[0] = "[N/A]"
    assert system.gpu_memory_gib() == 0


def test_versions_name_python_and_the_library_that_is_compared_with():
    assert {"python", "ultralytics"} <= set(system.versions())


def test_a_clean_checkout_is_its_commit(repository):
    assert system.commit(repository, {}) == git(repository, "rev-parse", "HEAD")


def test_who_knows_this_very_code_is_believed_before_git(repository):
    digest = system.code_digest(repository)
    assert system.commit(repository, {"YOLOV12_COMMIT": f"{SHA}:{digest}"}) == SHA
    head = git(repository, "rev-parse", "HEAD")
    assert system.commit(repository, {"YOLOV12_COMMIT": f"{SHA}:of other code"}) == head
    assert system.commit(repository, {"YOLOV12_COMMIT": SHA}) == head


def test_a_copy_inside_another_checkout_is_not_that_checkouts_commit(repository):
    copy = repository / "copy"
    (copy / "yolov12").mkdir(parents=True)
    assert system.commit(copy, {}) == "unknown"
    assert system.commit(copy, {"YOLOV12_COMMIT": SHA}) == SHA


def test_changed_code_is_dirty(repository):
    (repository / "yolov12/step.py").write_text("speed = 2\n")
    assert system.commit(repository, {}).endswith("-dirty")


def test_new_code_is_dirty(repository):
    (repository / "yolov12/faster.py").write_text("speed = 3\n")
    assert system.commit(repository, {}).endswith("-dirty")


def test_a_new_record_or_page_does_not_make_the_code_dirty(repository):
    (repository / "benchmarks/records/new.json").write_text("{}")
    (repository / "README.md").write_text("fast\n")
    assert not system.commit(repository, {}).endswith("-dirty")


def test_without_git_the_environment_tells(tmp_path):
    assert system.commit(tmp_path, {"YOLOV12_COMMIT": SHA}) == SHA


def test_without_git_a_digest_proves_the_carried_code(tmp_path):
    (tmp_path / "yolov12").mkdir()
    (tmp_path / "yolov12/step.py").write_text("speed = 1\n")
    told = {"YOLOV12_COMMIT": f"{SHA}:{system.code_digest(tmp_path)}"}
    assert system.commit(tmp_path, told) == SHA
    (tmp_path / "yolov12/step.py").write_text("speed = 2\n")
    assert system.commit(tmp_path, told) == f"{SHA}-dirty"


@pytest.mark.parametrize("told", [{}, {"YOLOV12_COMMIT": "latest"}, {"YOLOV12_COMMIT": "unknown:0123456789ab"}])
def test_a_commit_that_nothing_tells_is_unknown(tmp_path, told):
    assert system.commit(tmp_path, told) == "unknown"


def test_a_record_of_the_present_code_has_no_age(repository):
    measured = git(repository, "rev-parse", "HEAD")
    (repository / "benchmarks/records/new.json").write_text("{}")
    commit_all(repository)
    assert system.age(measured, repository) == ""


def test_a_record_is_older_once_the_package_changed(repository):
    measured = git(repository, "rev-parse", "HEAD")
    (repository / "yolov12/step.py").write_text("speed = 2\n")
    commit_all(repository)
    assert system.age(measured, repository) == "made by an older commit: 1 since then changed yolov12/"


def test_a_record_of_uncommitted_code_says_so(repository):
    measured = git(repository, "rev-parse", "HEAD")
    assert system.age(f"{measured}-dirty", repository) == "made with uncommitted changes"


def test_a_record_of_a_lost_commit_says_so(repository):
    assert system.age(SHA, repository) == "commit 0123456789, which is not in this history"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("saved to /home/someone/runs/train", "saved to .../train"),
        ("data=/data/private/bccd epochs=3", "data=.../bccd epochs=3"),
        ("Location 'file:///srv/mirror/torch/' is ignored", "Location '.../torch/' is ignored"),
        ("see https://docs.example.com/modes/train", "see https://docs.example.com/modes/train"),
        ("images/train and ../shared/data", "images/train and ../shared/data"),
        ("3/100  1.2it/s", "3/100  1.2it/s"),
        ("\x1b[34mtrain:\x1b[0m done", "train: done"),
    ],
)
def test_logs_lose_paths_and_colours_and_nothing_else(text, shown):
    assert system.scrub(text) == shown


def test_logs_lose_the_hosts_name(monkeypatch):
    monkeypatch.setattr(system.socket, "gethostname", lambda: "node17")
    assert system.scrub("worker on node17, not on node170") == "worker on <host>, not on node170"


def test_a_device_slug_is_what_the_schema_accepts():
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", system.device(gpus_used=1))

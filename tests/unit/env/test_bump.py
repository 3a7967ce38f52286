# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make bump`: one pin changes with all that follows from it, or nothing does. No network: what renders and locks is a stand-in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "env"))

import bump  # noqa: E402  # the programs of env/ are run as files and import each other by their bare names
import relock  # noqa: E402

VERSIONS = """\
# Every pin once.
images:
  base:
    name: debian:12
    digest: sha256:abc
    why: small

packages:
  # renovate: depName=torch
  torch:
    version: "2.11.0"   # quoted
    why: 'the records: all of them'
  torchvision: {version: "0.26.0", why: goes with torch}
  types-PyYAML:
    version: 6.0.12
    why: latest

  ultralytics:
    version: "8.4.190"
    why: seams

sources:
  flash-attn:
    version: "2.8.3"
    sha256: 0123
    why: the sdist
  other: {version: "1.0", sha256: "4567"}

downloads:
  miniforge:
    sha256: 89ab
    version: "25.3.0-3"
    url: https://example.org/{version}/Miniforge3-{version}.sh
  nccl-tests:
    version: "2.19.6"
    commit: cdef
"""
SHA256 = "0123456789abcdef" * 4


class Checkout:
    """A folder with pins and one lock, and stand-ins for render.py and lock.py."""

    def __init__(self, root: Path, monkeypatch) -> None:
        self.root, self.ran, self.failure = root, [], None
        (root / "env/locks").mkdir(parents=True)
        (root / "env/versions.yaml").write_text(VERSIONS)
        (root / "env/locks/build.txt").write_text("uv==0.13.9\n")
        (root / "env/locks/train-py311.txt").write_text("torch==2.11.0 \\\n    --hash=sha256:aa\nnumpy==2.4.6\n")
        monkeypatch.setattr(relock, "run", self.run)

    def run(self, script: str, root: Path, _options: object = ()) -> None:
        self.ran.append(script)
        lock = root / "env/locks/train-py311.txt"
        lock.write_text(lock.read_text().replace("numpy==2.4.6", "numpy==2.5.0"))
        (root / "env/locks/constraints.txt").write_text("made from the new pins\n")
        if self.failure and script == "env/lock.py":
            raise self.failure

    def bump(self, package: str, version: str, sha256: str = "") -> int:
        return bump.main([package, version, "--sha256", sha256], self.root)

    def content(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Checkout:
    return Checkout(tmp_path, monkeypatch)


def test_only_the_version_changes_and_every_comment_stays(checkout):
    assert checkout.bump("types-PyYAML", "6.0.13") == 0
    assert checkout.content()["versions.yaml"] == VERSIONS.replace("version: 6.0.12", 'version: "6.0.13"')


def test_files_are_rendered_before_they_are_locked(checkout):
    checkout.bump("types-PyYAML", "6.0.13")
    assert checkout.ran == ["env/render.py", "env/workflow.py", "env/lock.py"]


def test_what_moved_in_the_locks_is_said(checkout, capsys):
    checkout.bump("types-PyYAML", "6.0.13")
    assert "pinned: types-PyYAML 6.0.13\nlocked: numpy 2.4.6 -> 2.5.0\nnext: make test" in capsys.readouterr().out


def test_pins_that_only_go_together_are_changed_together(checkout):
    assert checkout.bump("torch torchvision", "2.12.0 0.27.0") == 0
    pins = yaml.safe_load(checkout.content()["versions.yaml"])["packages"]
    assert (pins["torch"]["version"], pins["torchvision"]["version"]) == ("2.12.0", "0.27.0")
    assert '"2.12.0"   # quoted' in checkout.content()["versions.yaml"]


@pytest.mark.parametrize(
    ("package", "version", "words"),
    [
        ("troch", "2.12.0", "no pin is called 'troch'; env/versions.yaml has torch"),
        ("why", "1.0", "no pin is called 'why'"),
        ("base", "sha256:def", "no pin is called 'base'"),
        ("torch", "newest", "'newest' is not a version, as 2.11.0 is"),
        ("torch", '2.12.0"', "is not a version"),
        ("torch", "2.11.0", "torch is pinned at 2.11.0 already"),
        (
            "torch",
            "2.12.0",
            "torch 2.12.0 goes with torchvision 0.27, and torchvision 0.26.0 is pinned: change them in one call",
        ),
        (
            "nccl-tests",
            "2.19.7",
            "nccl-tests is pinned with its commit: change both in env/versions.yaml, then `make lock`",
        ),
        ("", "", "0 packages and 0 versions: type `make bump PKG=name VERSION=1.2.3`"),
        ("torch", "", "1 packages and 0 versions"),
        ("torch torchvision", "2.12.0", "2 packages and 1 versions"),
    ],
)
def test_what_can_not_be_bumped_gets_one_sentence_and_exit_code_2(checkout, capsys, package, version, words):
    assert checkout.bump(package, version) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert checkout.content()["versions.yaml"] == VERSIONS
    assert checkout.ran == []


@pytest.mark.parametrize("sha256", [SHA256, SHA256.upper()])
@pytest.mark.parametrize(
    ("package", "version", "old_version", "old_hash"),
    [("flash-attn", "2.8.4", '"2.8.3"', "0123\n"), ("miniforge", "25.9.1-0", '"25.3.0-3"', "89ab\n")],
)
def test_a_hash_changes_with_its_version_wherever_it_stands(checkout, package, version, old_version, old_hash, sha256):
    assert checkout.bump(package, version, sha256) == 0
    expected = VERSIONS.replace(old_version, f'"{version}"').replace(old_hash, f'"{SHA256}"\n')
    assert checkout.content()["versions.yaml"] == expected


def test_a_hash_that_nobody_checked_here_is_said_to_be_taken_as_given(checkout, capsys):
    checkout.bump("miniforge types-PyYAML", "25.9.1-0 6.0.13", SHA256)
    said = [line for line in capsys.readouterr().out.splitlines() if "taken as given" in line]
    assert said == [
        f"taken as given: sha256 {SHA256} of miniforge, which no file was held against here; "
        "what fetches the file refuses any other"
    ]


def test_of_several_packages_those_that_have_a_hash_take_them_in_their_order(checkout):
    hashes = ["a" * 64, "b" * 64]
    assert checkout.bump("other types-PyYAML flash-attn", "1.1 6.0.13 2.8.4", " ".join(hashes)) == 0
    sources = yaml.safe_load(checkout.content()["versions.yaml"])["sources"]
    assert [sources[name]["sha256"] for name in ("other", "flash-attn")] == hashes


@pytest.mark.parametrize(
    ("package", "version", "sha256", "words"),
    [
        (
            "flash-attn",
            "2.8.4",
            "",
            "flash-attn is pinned with the sha256 of the source distribution of flash-attn 2.8.4 on the package index: "
            "fetch it, look at what sha256sum says of it, and type SHA256=... too",
        ),
        (
            "miniforge",
            "25.9.1-0",
            "",
            "with the sha256 of https://example.org/25.9.1-0/Miniforge3-25.9.1-0.sh: fetch it",
        ),
        ("other flash-attn", "1.1 2.8.4", SHA256, 'type SHA256="... ..." for other and flash-attn, in this order too'),
        (
            "flash-attn",
            "2.8.4",
            SHA256[1:],
            f"SHA256={SHA256[1:]} is not 64 hexadecimal digits: type what sha256sum prints",
        ),
        ("flash-attn", "2.8.4", "g" + SHA256[1:], "is not 64 hexadecimal digits"),
        ("torch", "2.12.0", SHA256, "torch: pinned without a sha256, so leave SHA256 out"),
        (
            "torch flash-attn",
            "2.12.0 2.8.4",
            f"{SHA256} {SHA256}",
            "SHA256 has 2 hashes, and only flash-attn asks for one: leave out the others",
        ),
        ("nccl-tests", "2.19.7", SHA256, "nccl-tests: pinned without a sha256"),
        ("flash-attn", "2.8.3", SHA256, "flash-attn is pinned at 2.8.3 already"),
    ],
)
def test_a_hash_that_is_missing_or_malformed_or_not_asked_for_changes_nothing(
    checkout, capsys, package, version, sha256, words
):
    assert checkout.bump(package, version, sha256) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert checkout.content()["versions.yaml"] == VERSIONS
    assert checkout.ran == []


def test_a_name_that_is_pinned_in_two_places_must_say_which(checkout, capsys):
    path = checkout.root / "env/versions.yaml"
    path.write_text(VERSIONS + 'older:\n  torchvision: {version: "0.24.1"}\n')
    assert checkout.bump("torchvision", "0.24.2") == 2
    assert "say which: PKG=packages/torchvision or PKG=older/torchvision" in capsys.readouterr().err
    assert bump.repinned(path.read_text(), "older/torchvision", "0.24.2").endswith('torchvision: {version: "0.24.2"}\n')


@pytest.mark.parametrize(
    "failure", [bump.BumpError("env/lock.py failed: no such version"), KeyboardInterrupt()], ids=["error", "Ctrl-C"]
)
def test_when_locking_fails_every_file_is_as_before(checkout, failure):
    before = checkout.content()
    checkout.failure = failure
    if isinstance(failure, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            checkout.bump("types-PyYAML", "6.0.13")
    else:
        assert checkout.bump("types-PyYAML", "6.0.13") == 2
    assert checkout.ran[-1] == "env/lock.py"
    assert {name: text for name, text in checkout.content().items() if name != "constraints.txt"} == before
    assert "constraints.txt" not in checkout.content(), "it was not there before"


def fetched(monkeypatch, code: int, words: str = "") -> None:
    """Let `uv pip install --target FOLDER` write an ultralytics that lacks everything, or fail."""

    def run(command, **_kwargs):
        if code == 0:
            (Path(command[command.index("--target") + 1]) / "ultralytics").mkdir()
        return subprocess.CompletedProcess(command, code, "", words)

    monkeypatch.setattr(bump.subprocess, "run", run)


def test_another_ultralytics_names_the_seams_that_moved(checkout, monkeypatch, capsys):
    fetched(monkeypatch, code=0)
    (checkout.root / "yolov12").mkdir()
    (checkout.root / "yolov12/a.py").write_text('SEAMS = (Seam("a.py", 1, "ultralytics.a.f", "0"),)\n')
    assert checkout.bump("ultralytics", "8.4.191") == 0
    said = capsys.readouterr().out
    assert "seams: 1 of 1 moved in ultralytics 8.4.191: read those places again before updating SEAMS" in said
    assert "gone: ultralytics.a.f (a.py:1; yolov12/a.py)" in said


def test_an_ultralytics_that_can_not_be_fetched_says_that_the_seams_were_not_compared(checkout, monkeypatch, capsys):
    fetched(monkeypatch, code=1, words="error: Request failed\n  cause: no network\n")
    assert checkout.bump("ultralytics", "8.4.191") == 0
    assert "seams: not compared, ultralytics 8.4.191 could not be fetched: cause: no network" in capsys.readouterr().out


def test_no_other_package_has_seams(checkout, capsys):
    checkout.bump("types-PyYAML", "6.0.13")
    assert "seams" not in capsys.readouterr().out


def test_each_pin_of_the_real_file_can_be_found_and_changed():
    text = (ROOT / "env/versions.yaml").read_text()
    for name, entry in yaml.safe_load(text)["packages"].items():
        changed = bump.repinned(text, f"packages/{name}", "999.1.2")
        assert yaml.safe_load(changed)["packages"][name] == {**entry, "version": "999.1.2"}
        assert len(changed.splitlines()) == len(text.splitlines())


def test_each_hash_of_the_real_file_is_asked_for_and_can_be_changed():
    text = (ROOT / "env/versions.yaml").read_text()
    pins = yaml.safe_load(text)
    with_hash = [
        (section, name, entry)
        for section in ("sources", "downloads")
        for name, entry in pins[section].items()
        if "sha256" in entry
    ]
    assert {name for _, name, _ in with_hash} >= {"flash-attn", "tensorrt-rtx-cu13", "miniforge"}
    for section, name, entry in with_hash:
        assert bump.hashed(text, {name: "999.1.2"}, [SHA256]) == {name: SHA256}
        changed = yaml.safe_load(bump.repinned(text, name, "999.1.2", SHA256))
        assert changed[section][name] == {**entry, "version": "999.1.2", "sha256": SHA256}


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=4))
def test_any_version_is_written_as_text_and_not_as_a_number(parts):
    version = ".".join(map(str, parts))
    if version != "6.0.12":
        parsed = yaml.safe_load(bump.repinned(VERSIONS, "types-pyyaml", version))
        assert parsed["packages"]["types-PyYAML"]["version"] == version


def test_make_bump_hands_its_words_on():
    words = ["PKG=a b", "VERSION=1 2", "SHA256=c d"]
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--assume-old=setup", "bump", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].endswith('python env/bump.py "a b" "1 2" --sha256 "c d"')

# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make lock`: all that follows from the pins is made anew, or every file is as before. No network: what renders and locks is a stand-in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "env"))

import relock  # noqa: E402  # the programs of env/ are run as files and import each other by their bare names

RENDER = """
from pathlib import Path
for name in ("README.md", "docker/docker-bake.json", "yolov12/pins.py", "env/locks/constraints.txt"):
    Path(name).write_text("made from the new pins")
"""
LOCK = """
import sys
from pathlib import Path
Path("env/locks/train-py311.txt").write_text("numpy==2.5.0\\n" + "".join(sys.argv[1:]))
"""
NO_SOLUTION = """
print("no version of torch==9.9.9", file=sys.stderr)
raise SystemError("uv failed")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Files that follow from pins, and programs that write them."""
    programs = {"env/render.py": RENDER, "env/workflow.py": "", "env/lock.py": LOCK}
    rendered = dict.fromkeys(["README.md", "docker/docker-bake.json", "yolov12/pins.py"], "as it was")
    locks = {"env/locks/build.txt": "uv==0.13.9\n", "env/locks/train-py311.txt": "numpy==2.4.6\n"}
    for name, text in {**programs, **rendered, **locks, "env/versions.yaml": "torch: 9.9.9"}.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def content(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_what_follows_from_the_pins_is_made_and_what_moved_is_said(checkout, capsys):
    assert relock.main([], checkout) == 0
    assert content(checkout)["README.md"] == "made from the new pins"
    assert capsys.readouterr().out.splitlines()[-1] == "locked: numpy 2.4.6 -> 2.5.0"


def test_upgrade_is_for_the_locks_alone(checkout):
    assert relock.main(["--upgrade"], checkout) == 0
    assert content(checkout)["env/locks/train-py311.txt"].endswith("--upgrade")


def test_a_pin_that_can_not_be_resolved_is_one_error_without_a_traceback_and_every_file_is_as_before(checkout, capsys):
    (checkout / "env/lock.py").write_text(LOCK + NO_SOLUTION)
    before = content(checkout)
    assert relock.main([], checkout) == 2
    assert content(checkout) == before
    said = capsys.readouterr().err
    assert said == "error: env/lock.py failed, and every file is as before:\nno version of torch==9.9.9\n"


def test_a_program_that_fails_is_quoted_without_the_traceback_around_it(tmp_path):
    (tmp_path / "lock.py").write_text(
        "import sys; print('no such version', file=sys.stderr); raise SystemError('inside')"
    )
    with pytest.raises(relock.Undone) as raised:
        relock.run("lock.py", tmp_path)
    assert str(raised.value) == "lock.py failed, and every file is as before:\nno such version"


def test_a_program_that_only_has_a_traceback_to_say_is_quoted_with_it(tmp_path):
    (tmp_path / "lock.py").write_text("raise SystemError('inside')")
    with pytest.raises(relock.Undone, match="SystemError: inside"):
        relock.run("lock.py", tmp_path)


def test_make_lock_hands_its_words_on():
    command = ["make", "--no-print-directory", "--dry-run", "--assume-old=setup", "lock"]
    for words, expected in ([], "python env/relock.py"), (["UPGRADE=1"], "python env/relock.py --upgrade"):
        done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1].rstrip().endswith(expected)

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every pin stands once, has its reason, and goes together with the others."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from docker.stages import locks as stages
from env import render
from env.compatibility import TOOLCHAIN
from yolov12.export.aoti_toolkit import WHEELS

ROOT = Path(__file__).resolve().parents[3]
PINS = render.load()
PACKAGES = PINS.versions["packages"]
OTHER_LINES = {
    cuda: PINS.versions[f"packages_{render.tag_of(cuda)}"] for cuda in PINS.matrix["cuda"] if cuda != PINS.cuda
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = sorted((ROOT / "env/locks").glob("*-py*.txt"))
TOOLS = [ROOT / "env/locks/build.txt", ROOT / "env/locks/toolchain.txt"]
"""Locks that are the same for every Python."""

# Besides the generated files: the pins themselves, their locks, prose and records, which say what was so when they were written, and tests,
# whose sample records do.
MAY_NAME_VERSIONS = (
    "env/versions.yaml",
    "env/locks/",
    "benchmarks/records/",
    "docs/",
    "tests/",
    "CHANGELOG.md",
    "README.md",
)


def locked(lock: Path) -> dict[str, str]:
    """Canonical name -> version of each package of a lock."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def requirements_of(distribution: str) -> dict[str, SpecifierSet]:
    """What an installed distribution asks for on Linux, by canonical name."""
    found = [Requirement(text) for text in requires(distribution) or []]
    return {
        canonicalize_name(r.name): r.specifier for r in found if r.marker is None or r.marker.evaluate({"extra": ""})
    }


@pytest.mark.parametrize(
    ("name", "entry"), [*PACKAGES.items(), *(pin for section in OTHER_LINES.values() for pin in section.items())]
)
def test_a_pin_is_one_version_with_a_reason(name, entry):
    assert re.fullmatch(r"[0-9]+(\.[0-9a-z]+)+", entry["version"]), (
        f"{name}: {entry['version']!r} is not one exact version"
    )
    assert len(entry["why"]) > 10


def test_what_is_not_a_package_has_its_reason_too():
    for section in (*PINS.versions["python"].values(), PINS.versions["platform"]):
        assert section["why"]
    assert all(found["why"] for found in PINS.versions["downloads"].values())
    assert all(line["why"] for line in PINS.matrix["cuda"].values())
    assert all(image["why"] for image in PINS.versions["images"].values())
    assert all(source["why"] for source in PINS.versions["sources"].values())
    assert all(package["why"] for package in PINS.versions["vendor"].values())
    assert all(PINS.versions["left_out"].values())
    assert all(PINS.matrix["exclusions"].values())


def test_each_pin_tells_renovate_where_newer_versions_are():
    text = (ROOT / "env/versions.yaml").read_text()
    announced = re.findall(r"# renovate: datasource=(\S+) depName=(\S+)\n  (\S+):\n", text)
    pinned = [*PACKAGES, *PINS.versions["sources"]]
    assert [key for source, name, key in announced if source == "pypi" and name == key] == pinned
    assert [key for _, name, key in announced if name == "tensorrt-cu13-bindings"] == list(PINS.versions["vendor"])
    assert [key for source, _, key in announced if source == "docker"] == list(PINS.versions["images"])
    elsewhere = [key for source, name, key in announced if source.startswith("github") and name.endswith(f"/{key}")]
    assert elsewhere == list(PINS.versions["downloads"])
    for cuda in OTHER_LINES:
        section = text.partition(f"\npackages_{render.tag_of(cuda)}:")[2]
        assert "renovate" not in section, "a newer torch is built for a newer CUDA"


def test_each_dependency_is_pinned_and_each_pin_is_of_something_locked():
    names = [*PROJECT["dependencies"], *(name for extra in PROJECT["optional-dependencies"].values() for name in extra)]
    assert set(names) <= set(PACKAGES), "a dependency without a pin in env/versions.yaml"
    everything = {name for lock in (*LOCKS, *TOOLS) for name in locked(lock)}
    assert {canonicalize_name(name) for name in PACKAGES} <= everything, "a pin that no lock uses"


def test_a_lock_exists_for_each_python_that_the_package_accepts():
    pythons = PINS.lock_pythons
    groups = PINS.matrix["locks"] | {"dev": {}}
    wanted = {render.lock_name(name, one) for name, entry in groups.items() for one in entry.get("pythons", pythons)}
    assert {lock.name for lock in LOCKS} == wanted
    accepted = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in accepted] == pythons
    assert PINS.versions["python"]["image"]["version"] in pythons


@pytest.mark.parametrize("lock", [*LOCKS, *TOOLS], ids=lambda lock: lock.stem)
def test_a_lock_has_the_pinned_versions_and_a_hash_for_each(lock):
    group = lock.name.partition("-py")[0]
    cuda = PINS.matrix["locks"].get(group, {}).get("cuda", PINS.cuda)
    pins = {canonicalize_name(name): entry["version"] for name, entry in PINS.packages(cuda).items()}
    found = locked(lock)
    if cuda in OTHER_LINES:
        assert {canonicalize_name(name) for name in OTHER_LINES[cuda]} <= set(found), "a pin that its lock does not use"
    assert {name: version for name, version in found.items() if pins.get(name, version) != version} == {}, (
        "run `make lock`"
    )
    blocks = re.split(r"^(?=\S+==)", lock.read_text(), flags=re.MULTILINE)[1:]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert not set(found) & set(PINS.versions["left_out"])


@pytest.mark.parametrize("lock", [*LOCKS, *TOOLS], ids=lambda lock: lock.stem)
def test_a_lock_names_no_index_and_no_file(lock):
    """A mirror or a developer's folder must not travel with the repository."""
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"^(--|-i |-f )|index-url|find-links| @ ", text, re.MULTILINE)


def test_the_toolchain_lock_is_the_five_parts_of_the_compiler_and_nothing_else():
    assert set(locked(ROOT / "env/locks/toolchain.txt")) == set(TOOLCHAIN)


@pytest.mark.parametrize(
    "lock", [lock for lock in LOCKS if re.match(r"(train|dev)-py", lock.name)], ids=lambda lock: lock.stem
)
def test_the_headers_that_packages_for_gpus_are_compiled_against_are_locked(lock):
    assert set(WHEELS) <= set(locked(lock))


def test_what_is_fetched_from_elsewhere_is_pinned_with_its_hash_or_its_commit():
    for name, found in PINS.versions["downloads"].items():
        assert found["url"].startswith("https://"), name
        assert re.fullmatch(r"[0-9a-f]{64}", found.get("sha256", "")) or re.fullmatch(r"[0-9a-f]{40}", found["commit"])


def test_a_source_distribution_is_pinned_with_the_hash_of_its_file():
    for name, source in PINS.versions["sources"].items():
        assert re.fullmatch(r"[0-9a-f]{64}", source["sha256"]), name


@pytest.mark.parametrize("python", PINS.lock_pythons)
def test_the_dev_lock_holds_what_the_others_hold_at_the_same_versions(python):
    dev = locked(ROOT / "env/locks" / render.lock_name("dev", python))
    ours = [group for group, entry in PINS.matrix["locks"].items() if not {"project", "cuda"} & entry.keys()]
    for smaller in [render.lock_name(group, python) for group in ours] + ["build.txt"]:
        text = (ROOT / "env/locks" / smaller).read_text()
        optional = {name for roots in stages.OPTIONAL.values() for name in stages.only_for(text, roots)}
        held = {name: version for name, version in locked(ROOT / "env/locks" / smaller).items() if name not in optional}
        assert held.items() <= dev.items(), f"{smaller} differs from the dev lock"


def test_what_does_not_depend_on_cuda_is_the_same_in_the_lock_of_another_line():
    """One image would else behave differently from the other for no reason, such as a lock that was upgraded alone."""
    main, other = (locked(ROOT / "env/locks" / f"{group}-py311.txt") for group in ("train", "train-cu128"))
    differing = {name for name in main.keys() & other.keys() if main[name] != other[name]}
    assert differing == {"torch", "torchvision", "triton", *(name for name in differing if name.startswith("nvidia-"))}


@pytest.mark.parametrize("name", ["nvidia-nccl-cu13", "nvidia-cudnn-cu13", "triton", "cuda-toolkit"])
def test_the_pins_that_follow_torch_are_what_torch_asks_for(name):
    assert requirements_of("torch")[name] == SpecifierSet(f"=={PINS.version_of(name)}")


def test_torchvision_is_built_for_the_pinned_torch():
    assert requirements_of("torchvision")["torch"] == SpecifierSet(f"=={PINS.version_of('torch')}")


def version_names() -> re.Pattern[str]:
    """Matches a pinned version as a whole, with at least two dots, so that 3.11 or 0.1 of something else is not one."""
    versions = [entry["version"] for entry in PACKAGES.values()] + [PINS.versions["images"]["base"]["digest"]]
    return re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, versions)) + r")(?![\w]|\.\d)")


def code_of(file: Path) -> str:
    """The text of a source file without comments and docstrings, which may cite the version that was read."""
    text = file.read_text()
    if file.suffix != ".py":
        return re.sub(r"(^|\s)#.*$", "", text, flags=re.MULTILINE)
    tree = ast.parse(text)
    docs = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(node.value for node in strings if id(node) not in docs)


def sources() -> list[Path]:
    """Every text file that could hold a second copy of a pin."""
    folders = [".ci", "benchmarks", "deploy", "docker", "env", "examples", "scripts", "tests", "yolov12"]
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    files += [file for file in ROOT.iterdir() if file.is_file()]
    generated = {path.relative_to(ROOT).as_posix() for path in render.outputs()}
    names = [file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts]
    return [ROOT / name for name in names if name not in generated and not name.startswith(MAY_NAME_VERSIONS)]


def test_a_pin_is_written_once():
    pattern = version_names()
    copies = []
    for file in sources():
        try:
            found = pattern.search(code_of(file))
        except UnicodeDecodeError:
            continue  # a picture or a font
        if found:
            copies.append(f"{file.relative_to(ROOT)}: {found[1]}")
    assert not copies, (
        f"written outside env/versions.yaml (import yolov12.pins, or take it from the bake file): {copies}"
    )

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Change a pin of env/versions.yaml and everything that follows from it: `make bump PKG=onnx VERSION=1.23.3`.

Several pins that only go together are changed together, and what two CUDA lines pin is named with its section:
`make bump PKG="packages/torch packages/torchvision" VERSION="2.12.0 0.27.0"`. What is no locked wheel is pinned with the sha256 of its
file, which is asked for, since nothing here looks it up: `make bump PKG=miniforge VERSION=25.9.1-0 SHA256=...`. The rendered files and
the locks are made anew; if that fails, all of them are as before. For ultralytics the seams that moved are named.
"""

from __future__ import annotations

import argparse
import difflib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from compatibility import contradictions, lines_of
from moved_seams import moved, tables
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from relock import Undone, difference, kept_on_failure, locked, relock
from render import ROOT

BY_HAND = {"digest", "commit"}
"""What else stands beside a version, and is not changed here."""


class BumpError(Undone):
    """The pin can not be changed as asked; nothing was. The message says what to type."""


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """0: changed; 2: nothing was changed, and one sentence says why."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", help="names as in env/versions.yaml, separated by spaces")
    parser.add_argument("versions", help="as many versions")
    parser.add_argument(
        "--sha256",
        default="",
        help="for each of the packages that is pinned with one, in their order, separated by spaces",
    )
    options = parser.parse_args(arguments)
    try:
        changes = paired(options.packages.split(), options.versions.split())
        for line in bump(changes, options.sha256.split(), root):
            print(line, flush=True)
    except Undone as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("next: make test (it installs the new locks first)")
    return 0


def paired(packages: list[str], versions: list[str]) -> dict[str, str]:
    """The versions that are asked for, by package."""
    if not packages or len(packages) != len(versions):
        raise BumpError(
            f"{len(packages)} packages and {len(versions)} versions: type `make bump PKG=name VERSION=1.2.3`, "
            'or as many of each: PKG="a b" VERSION="1.2 3.4"'
        )
    return dict(zip(packages, versions, strict=True))


def bump(changes: Mapping[str, str], hashes: Sequence[str], root: Path) -> Iterator[str]:
    """Make the changes, saying what happens. BumpError before anything is written, or after all was put back."""
    pins = root / "env/versions.yaml"
    text = pins.read_text(encoding="utf-8")
    sha256 = hashed(text, changes, hashes)
    for package, version in changes.items():
        text = repinned(text, package, version, sha256.get(package))
    if wrong := [said for pins in lines_of(yaml.safe_load(text)).values() for said in contradictions(pins)]:
        raise BumpError("; ".join(wrong) + ": change them in one call")
    before = locked(root)
    with kept_on_failure([pins]):
        pins.write_text(text, encoding="utf-8")
        yield from relock(root)
    for package, version in changes.items():
        yield f"pinned: {package} {version}"
    yield from difference(before, locked(root))
    for package, value in sha256.items():
        yield f"taken as given: sha256 {value} of {package}, which no file was held against here; what fetches the file refuses any other"
    if "ultralytics" in changes:
        yield from seams_moved(changes["ultralytics"], root)


def hashed(text: str, changes: Mapping[str, str], hashes: Sequence[str]) -> dict[str, str]:
    """The hashes by package: one for each that is pinned with the sha256 of its file, in the order of `changes`.

    Raises:
        BumpError: a hash is missing, nobody asks for it, or it is none.
    """
    files = {
        package: place.file(version)
        for package, version in changes.items()
        if (place := _place_of(text, package)).has_sha256
    }
    if missing := list(files)[len(hashes) :]:
        asked = ", ".join(f"{package} is pinned with the sha256 of {files[package]}" for package in missing)
        words = "SHA256=..." if len(files) == 1 else f'SHA256="... ..." for {" and ".join(files)}, in this order'
        raise BumpError(f"{asked}: fetch it, look at what sha256sum says of it, and type {words} too")
    if hashes and not files:
        raise BumpError(f"{' and '.join(changes)}: pinned without a sha256, so leave SHA256 out")
    if len(hashes) > len(files):
        raise BumpError(
            f"SHA256 has {len(hashes)} hashes, and only {' and '.join(files)} asks for one: leave out the others"
        )
    for value in hashes:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
            raise BumpError(f"SHA256={value} is not 64 hexadecimal digits: type what sha256sum prints")
    return {package: value.lower() for package, value in zip(files, hashes, strict=True)}


def repinned(text: str, package: str, version: str, sha256: str | None = None) -> str:
    """The text of versions.yaml with one version replaced, and its hash where it has one, and every other character as it was.

    Raises:
        BumpError: no such pin, a version that is none, the version it has, or one that stands beside a digest or a commit.
    """
    place = _place_of(text, package)
    if place.by_hand:
        raise BumpError(
            f"{package} is pinned with its {' and '.join(place.by_hand)}: change both in env/versions.yaml, then `make lock`"
        )
    try:
        Version(version)
    except InvalidVersion:
        raise BumpError(f"{version!r} is not a version, as {place.value('version')} is") from None
    if version == place.value("version"):
        raise BumpError(f"{package} is pinned at {version} already")
    changed = {"version": version} | ({"sha256": sha256} if sha256 else {})
    # From the end, so that what is before stays where the parser found it.
    for key, value in sorted(changed.items(), key=lambda item: -place.start(item[0])):
        text = f'{text[: place.start(key)]}"{value}"{text[place.end(key) :]}'
    return text


def _place_of(text: str, package: str) -> _Place:
    """Where the pin of this name, or of this section and name, stands; BumpError for none or several."""
    places = _places(text)
    wanted = canonicalize_name(package)
    named = [place for place in places if wanted in (canonicalize_name(place.name), canonicalize_name(place.path))]
    if not named:
        names = sorted({place.name for place in places})
        near = difflib.get_close_matches(package, names, n=3) or names
        raise BumpError(f"no pin is called {package!r}; env/versions.yaml has {', '.join(near)}")
    if len(named) > 1:
        raise BumpError(
            f"{package} is pinned more than once; say which: PKG={' or PKG='.join(one.path for one in named)}"
        )
    return named[0]


class _Place:
    """An entry of versions.yaml, and where in the text its values stand."""

    def __init__(self, path: tuple[str, ...], entry: dict[str, yaml.Node]) -> None:
        self.name, self.path, self._entry = path[-1], "/".join(path), entry

    @property
    def has_sha256(self) -> bool:
        """Whether a hash of its file stands beside the version."""
        return "sha256" in self._entry

    @property
    def by_hand(self) -> list[str]:
        """What stands beside the version and can not be changed here."""
        return sorted(BY_HAND & set(self._entry))

    def file(self, version: str) -> str:
        """What the hash is of, in this version."""
        if "url" in self._entry:
            return self.value("url").format(version=version)
        return f"the source distribution of {self.name} {version} on the package index"

    def value(self, key: str) -> str:
        """As it is written, without quotes."""
        return str(self._entry[key].value)

    def start(self, key: str) -> int:
        """Where the value begins in the text, with its quotes."""
        return int(self._entry[key].start_mark.index)

    def end(self, key: str) -> int:
        """Where it ends."""
        return int(self._entry[key].end_mark.index)


def _places(text: str) -> list[_Place]:
    def walk(node: yaml.Node, path: tuple[str, ...]) -> Iterator[_Place]:
        if isinstance(node, yaml.MappingNode):
            entry = {key.value: value for key, value in node.value}
            if path and isinstance(entry.get("version"), yaml.ScalarNode):
                yield _Place(path, entry)
            for key, value in entry.items():
                yield from walk(value, (*path, key))

    return list(walk(yaml.compose(text) or yaml.MappingNode("", []), ()))


def seams_moved(version: str, root: Path) -> list[str]:
    """What ultralytics `version` moves under the seams; that they were not compared, and why, where its wheel can not be had."""
    with tempfile.TemporaryDirectory(prefix="seams-") as folder:
        uv = Path(sys.executable).parent / "uv"
        command = [str(uv), "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", folder]
        done = subprocess.run([*command, f"ultralytics=={version}"], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].strip()
            return [f"seams: not compared, ultralytics {version} could not be fetched: {reason}"]
        seams = tables(root)
        sentences = moved(seams, Path(folder) / "ultralytics")
    head = f"seams: {len(sentences)} of {len(seams)} moved in ultralytics {version}"
    return [head + (": read those places again before updating SEAMS" if sentences else ""), *sentences]


if __name__ == "__main__":
    sys.exit(main())

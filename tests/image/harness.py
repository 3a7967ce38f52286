# SPDX-License-Identifier: AGPL-3.0-or-later
"""How the tests run the image: as strangers do, from outside, through docker's command line."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

STRANGER = ("--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", "12345:0")
"""The least that a container may have: no network, nothing to write to, a user that the image does not know, 64 MiB of shared memory."""


@dataclass(frozen=True)
class Ran:
    """How a container ended, and what it said."""

    command: str
    code: int
    out: str
    log: str
    """stderr; where the engine joins the two, all of it."""

    def check(self) -> Ran:
        """Itself, if it ended well and warned of nothing."""
        assert self.code == 0, str(self)
        assert "WARNING" not in self.out + self.log, str(self)
        return self

    def __str__(self) -> str:
        return f"$ {self.command}\n{self.out}{self.log}[exit code {self.code}]"


class Image:
    """The image under test."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *command: str, options: Sequence[str] = (), timeout_s: float = 120) -> Ran:
        """`docker run IMAGE command...` without a terminal."""
        line = ["docker", "run", "--rm", *_offline(options), self.name, *command]
        done = subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ran(shlex.join(line), done.returncode, done.stdout, done.stderr)

    def python(self, program: str, options: Sequence[str] = STRANGER) -> str:
        """What a Python program prints in the image."""
        return self.run("python", "-c", program, options=options).check().out.strip()

    def type_into(self, text: str, *command: str, options: Sequence[str] = ()) -> str:
        """What a terminal shows after `docker run -it IMAGE command...` and typing `text`."""
        ours, theirs = pty.openpty()
        command = ("docker", "run", "--rm", "-it", *_offline(options), self.name, *command)
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        os.write(ours, text.encode())
        shown = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end was closed
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        process.wait(timeout=60)
        return shown.decode(errors="replace").replace("\r", "")

    @contextlib.contextmanager
    def started(self, *command: str, options: Sequence[str] = ()) -> Iterator[str]:
        """The name of a container that runs in the background, removed at the end."""
        name = docker("run", "--detach", *_offline(options), self.name, *command)
        try:
            yield name
        finally:
            docker("rm", "--force", name)

    def inspect(self, template: str) -> str:
        """One field of the image's description."""
        return docker("image", "inspect", "--format", template, self.name)

    def label(self, name: str) -> str:
        """The label yolov12.NAME; empty where it has none."""
        return self.inspect(f'{{{{index .Config.Labels "yolov12.{name}"}}}}')


def docker(*arguments: str) -> str:
    """What a docker command prints; an exception if it fails."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def exists(image: str) -> bool:
    """Whether the engine has an image of that name."""
    return not subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode


def _offline(options: Sequence[str]) -> Sequence[str]:
    """No test needs a network, and an engine without a bridge can not give one."""
    return options if "--network" in options else ("--network", "none", *options)


def wait_until(container: str, words: str, timeout_s: float) -> str:
    """The container's log once it has said `words`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
        if words in (log := done.stdout + done.stderr):
            return log
        if docker("inspect", "--format", "{{.State.Running}}", container) != "true":
            pytest.fail(f"ended without saying {words!r}:\n{log}")
        time.sleep(0.5)
    pytest.fail(f"did not say {words!r} in {timeout_s} s:\n{log}")


def mount(folder: Path, *more: str) -> tuple[str, ...]:
    """Options that mount a folder as the workspace, with further options."""
    return ("--volume", f"{folder}:/workspace", *more)

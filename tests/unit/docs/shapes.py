# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether a command of a page could be typed: it is read by the very parsers that would read it, and nothing is run.

Verbs, arguments, values and settings by `yolov12`; targets by make, their variables by the scripts behind them; benchmarks, rows and parameters by
`benchmarks`; images by the rendered bake file; other files by being there. What is not ours (docker's own verbs, cosign, pip) is not read.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import __main__ as benchmarks_program
from benchmarks import plan, suite
from benchmarks.errors import BenchmarkError
from benchmarks.harness import discover
from benchmarks.step import command as bench_step
from yolov12 import arguments, cli, recipes, settings, values, verbs
from yolov12.errors import ExitError
from yolov12.export import aoti_request, request
from yolov12.verb_table import LATER, VERBS

ROOT = Path(__file__).resolve().parents[3]
WORKBENCH = ROOT / "docker" / "workbench"
"""What lies in /root/yolov12 of the image besides the repository's folders."""
OF_THE_USER = ("my_script.py",)
"""Files that the pages stand for those of a reader."""

WITH_VALUE = frozenset(
    "-v --volume --gpus --network --user -e --env --tmpfs --shm-size --workdir --device --ulimit --time --name -p --pids-limit --cpuset-cpus".split()
)
WITHOUT_VALUE = frozenset("--rm -it -i -t --read-only --init".split())
"""Options of `docker run` that the pages and the doctor use."""
DOCKERS_OWN = frozenset("build buildx image load login pull push save stop tag".split())
NOT_OURS = frozenset("cosign diff pip source srun trtexec yolo".split())


class NotTypableError(Exception):
    """What is wrong with a command, in words."""


def mistake(words: list[str]) -> str:
    """What keeps this command line from working as written; empty if nothing does."""
    try:
        for one in _alone(words):
            _check(one)
    except (NotTypableError, ExitError, BenchmarkError) as error:
        return str(error)
    return ""


def forget_settings(patch: pytest.MonkeyPatch) -> None:
    """Begin without settings, and drop afterwards those that reading a command line exports."""
    for name in (*(declared.env for declared in settings.DECLARED.values()), settings.ORIGINS):
        patch.setenv(name, "")


def _alone(words: list[str]) -> list[list[str]]:
    """The commands of a line: `a && b | c` has three."""
    found: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("&|;"):
            found.append([])
        else:
            found[-1].append(word)
    return found


def _check(words: list[str]) -> None:
    """Read one command, with the variables that are set in front of it."""
    variables: dict[str, str] = {}
    while words and (found := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", words[0], re.DOTALL)):
        variables[found[1]] = found[2]
        words = words[1:]
    ours = {name: value for name, value in variables.items() if name.startswith("YOLOV12_")}
    with pytest.MonkeyPatch.context() as patch:
        forget_settings(patch)
        for name, value in ours.items():
            patch.setenv(name, value)
        settings.check_unknown(ours, strict=True)
        settings.current()
        if words:
            _program(words, {name: value for name, value in variables.items() if name not in ours})


def _program(words: list[str], variables: Mapping[str, str]) -> None:
    name, rest = words[0], words[1:]
    if name.startswith(".venv/bin/"):
        name = name.removeprefix(".venv/bin/")
        if name not in READERS and not (ROOT / ".venv/bin" / name).exists():
            raise NotTypableError(f"there is no .venv/bin/{name}")
        if name not in READERS:
            return
    if name in READERS:
        READERS[name](rest)
    elif "/" in name:
        _file_of_repository(name, rest, variables)
    elif name not in NOT_OURS:
        raise NotTypableError(f"{name!r} is not known to tests/unit/docs/shapes.py")


def yolov12(words: list[str]) -> None:
    """`yolov12 VERB ...`; `...` stands for more of the same kind."""
    if words[:1] == ["bench"]:
        return _bench(_shown(words[1:]))
    name, tokens = cli.split_verb(_shown(words))
    if name in (*cli.HELP, "--version") or "--help" in tokens:
        return None
    if name not in VERBS:
        raise NotTypableError(f"there is no verb {name!r}" + (", it is planned" if name in LATER else ""))
    verb = VERBS[name]
    keys = verb.keys()
    parsed = arguments.parse(tokens, keys, verb.max_words)
    options = settings.apply_command_line(parsed.options)
    settings.current()
    if name == "train" and "recipe" in options:
        options, _ = recipes.apply(options.pop("recipe"), options, verbs.DEFAULT_MODEL)
    if name == "export":
        request.of({"format": "onnx"} | options)
        if aoti_request.is_asked(options):
            aoti_request.of(verbs._call_arguments(options), 640)
    if "mode" in keys:  # those of ultralytics
        values.check({key: value for key, value in options.items() if key in arguments.ultralytics_defaults()})
    return None


def benchmarks(words: list[str]) -> None:
    """`python -m benchmarks ...`, on a machine with as many GPUs as it takes."""
    if words[:1] == ["step"]:
        return _step(words[1:])
    try:
        options = benchmarks_program._parser().parse_args(words)
    except SystemExit as ended:
        raise NotTypableError(f"python -m benchmarks does not take: {' '.join(words)}") from ended
    if options.verb == "run":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "_check_gpus", lambda plan: None)
            plan.make(options, discover(), {})
    if options.verb == "suite":
        _known_benchmarks(suite.names_in(options.names))
    return None


def _bench(words: list[str]) -> None:
    """`yolov12 bench ...`, as yolov12/verbs.py hands it on."""
    benchmarks(words if words and words[0] in verbs.BENCH_VERBS else ["suite", *words])


def _step(words: list[str]) -> None:
    keys = arguments.ultralytics_defaults() | bench_step.OWN_KEYS
    settings.apply_command_line(arguments.parse(words, keys).options)


def _known_benchmarks(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(discover())):
        raise NotTypableError(f"there is no benchmark {', '.join(unknown)}")


def make(words: list[str]) -> None:
    """Targets that make has, and variables that something behind them reads."""
    words = _shown(words)
    asked = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise NotTypableError(asked.stderr.strip())
    behind = [ROOT / "Makefile", *(ROOT / "docker").glob("*.sh"), ROOT / "docker/push.py"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in behind)
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if unread := [name for name in given if not re.search(rf"\b{name}\b", text)]:
        raise NotTypableError(f"nothing reads the variable {', '.join(unread)}")
    if "VARIANT" in given:
        _image(f"yolov12:{given['VARIANT']}")
    if "BENCH" in given:
        _known_benchmarks(suite.names_in([given["BENCH"]]))


def docker(words: list[str]) -> None:
    """`docker run`, and `docker compose run`; the other verbs are docker's own."""
    verb, rest = words[0], _shown(words[1:])
    if verb == "run":
        _docker_run(rest)
    elif verb == "compose":
        _compose(rest)
    elif verb not in DOCKERS_OWN:
        raise NotTypableError(f"docker {verb} is not known to tests/unit/docs/shapes.py")


def _docker_run(rest: list[str]) -> None:
    """Options that the pages use, an image that is built, and what it gets, read as its entrypoint would."""
    while rest and rest[0].startswith("-"):
        option, equals, _ = rest[0].partition("=")
        if option not in WITH_VALUE | WITHOUT_VALUE:
            raise NotTypableError(f"docker run {option} is not known to tests/unit/docs/shapes.py")
        rest = rest[2 if option in WITH_VALUE and not equals else 1 :]
    if not rest:  # a sentence names an option alone
        return
    image, command = rest[0], rest[1:]
    if image == "IMAGE":
        image = "yolov12:train"
    _image(image)
    if image.startswith("yolov12:deploy"):
        _deploy(command)
    elif command and (command[0] in (*VERBS, *LATER) or command[0].startswith("-") or "=" in command[0]):
        yolov12(command)
    elif command and command[0].endswith(".py"):
        python(command)
    elif command and command[0] not in ("bash", "sh"):
        _program(command, {})


def _compose(words: list[str]) -> None:
    """`docker compose -f FILE run --rm SERVICE ...`: what the service gets is read as the image's entrypoint would."""
    option, file, *rest = words
    services = yaml.safe_load(_existing(file).read_text(encoding="utf-8"))["services"]
    if option != "-f" or rest[:2] != ["run", "--rm"] or rest[2] not in services:
        raise NotTypableError(f"docker compose -f FILE run --rm with one of {', '.join(services)} is what pages show")
    _docker_run([services[rest[2]]["image"], *rest[3:]])


def _image(name: str) -> None:
    built = json.loads((ROOT / "docker/docker-bake.json").read_text(encoding="utf-8"))["target"]
    if name.removeprefix("yolov12:") not in built:
        raise NotTypableError(f"{name} is none of the images: {', '.join(built)}")


def _deploy(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docker/deploy"))
        from yolov12_deploy import cli as deploy_cli
        from yolov12_deploy.errors import UsageError

        if words[:1] not in (["predict"], ["verify"]):
            raise NotTypableError(f"the images without torch know no {' '.join(words[:1])!r}")
        try:
            if words[0] == "predict":
                deploy_cli.parse(words[1:])
        except UsageError as error:
            raise NotTypableError(str(error)) from error


def python(words: list[str]) -> None:
    """`python -m MODULE ...` or `python FILE ...`."""
    if words[:2] == ["-m", "benchmarks"]:
        return benchmarks(_shown(words[2:]))
    if words[0] == "-m":
        if find_spec(words[1]) is None:
            raise NotTypableError(f"there is no module {words[1]}")
        return None
    if words[0] in OF_THE_USER:
        return None
    if words[0] in ("train.py", "utils/lr_finder.py"):
        return yolov12([{"train.py": "train"}.get(words[0], "lr-find"), *words[1:]])
    return _file_of_repository(words[0], words[1:], {})


def torchrun(words: list[str]) -> None:
    """The script and what follows it."""
    script = next((number for number, word in enumerate(words) if word.endswith(".py")), None)
    if script is None:
        raise NotTypableError("torchrun has no script")
    python(words[script:])


def sbatch(words: list[str]) -> None:
    """A batch script of deploy/slurm, which hands on to `yolov12 train`."""
    rest = [word for word in words if not word.startswith("--")]
    _existing(rest[0])
    yolov12(["train", *rest[1:]])


def kubectl(words: list[str]) -> None:
    """Manifests that are there."""
    for option, file in itertools.pairwise(words):
        if option == "-f":
            _existing(file)


def export(words: list[str]) -> None:
    """Variables for what follows."""
    if not all("=" in word for word in words):
        raise NotTypableError("export NAME=VALUE is what pages show")


def _file_of_repository(name: str, words: list[str], variables: Mapping[str, str]) -> None:
    """A script of the checkout: it is there, and its text knows the variables and the options that it gets."""
    text = _existing(name).read_text(encoding="utf-8")
    options = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--help"]
    handed_on = options if name == "benchmarks/gpu.sh" else []
    if unread := [one for one in (*variables, *options) if one not in text and one not in handed_on]:
        raise NotTypableError(f"{name} does not know {', '.join(unread)}")
    if name == "scripts/multinode.sh":
        yolov12(_shown(words))
    if name == "benchmarks/gpu.sh" and words != ["none"]:
        benchmarks(["run", *words])


def _existing(name: str) -> Path:
    if (ROOT / name).is_file():
        return ROOT / name
    raise NotTypableError(f"there is no file {name}")


def _shown(words: list[str]) -> list[str]:
    """Without what stands for a reader's own: `...`, and `key=...`."""
    return [word for word in words if word != "..." and not word.endswith("=...")]


READERS: dict[str, Callable[[list[str]], Any]] = {
    "docker": docker,
    "export": export,
    "kubectl": kubectl,
    "make": make,
    "python": python,
    "python3": python,
    "sbatch": sbatch,
    "torchrun": torchrun,
    "yolov12": yolov12,
}

if __name__ == "__main__":
    print(mistake(sys.argv[1:]) or "could be typed")

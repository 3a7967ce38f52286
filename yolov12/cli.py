# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 VERB key=value ...`: finds the verb, prints help, and turns a mistake into one sentence and an exit code.

Exit codes: 0 done; 2 usage or bad input; 75 worth a retry; 130 interrupted; 141 nobody reads; 143 terminated; 1 a verb that judges found
something wrong or, with a traceback, a bug.
"""

from __future__ import annotations

import difflib
import os
import select
import sys
import textwrap
from collections.abc import Iterable, Iterator

from yolov12 import __version__, arguments_page, settings, settings_page
from yolov12.arguments import TASKS, parse
from yolov12.errors import UserError
from yolov12.log import speaker
from yolov12.mistakes import as_exit
from yolov12.verb_table import LATER, VERBS, Verb, not_yet

NOBODY_READS = 141
"""128 + SIGPIPE, as of other programs whose reader (`| head`) has left before they were done."""

HELP = ("help", "--help", "-h")


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code. A bug is raised, so that its traceback is seen."""
    try:
        code = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # here, where a reader that has left is no traceback
        return code
    except KeyboardInterrupt as interrupt:
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # of another pipe or socket
        _discard_output()
        return NOBODY_READS
    except Exception as error:  # what as_exit does not know is raised again
        known = as_exit(error)
        if known is None:
            raise
        print(f"error: {speaker()}{known}", file=sys.stderr)
        return known.exit_code


def run(argv: list[str]) -> int:
    """Run one command line.

    Raises:
        ExitError: with the exit code of what went wrong.
    """
    name, tokens = split_verb(argv)
    asked = [token for token in tokens if token not in TASKS]
    wants_help = name in HELP or asked == ["help"] or any(token in HELP[1:] for token in tokens)
    about = (asked or tokens or [""])[0]  # `help detect train` is about train
    if name in HELP and about[:1].isalpha() and "=" not in about:
        name = about  # also one that does not exist: `help trian` is to be told of its slip
    if name in ("--version", "version"):
        return _show([f"yolov12 {__version__}"])
    if name in LATER:
        raise not_yet(name)
    if name in VERBS and wants_help:
        return _show(verb_help(VERBS[name]))
    if name in HELP or not name:
        return _show(overview())
    if name in TASKS:
        if wants_help:
            return _show(task_help(name))
        raise UserError(f"{name!r} is a task, and no verb: type, for example, yolov12 {name} train data=my.yaml")
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=2, cutoff=0.6)
        meant = f"did you mean {' or '.join(near)}?" if near else "`yolov12 help` lists the verbs"
        raise UserError(f"there is no verb {name!r}; {meant}")
    settings.check_unknown(os.environ, strict=name not in ("env", "doctor"))  # these two show it
    if name == "bench":
        return VERBS[name].run(tokens, {})
    verb = VERBS[name]
    parsed = parse(tokens, verb.keys(), verb.max_words)
    return verb.run(parsed.words, settings.apply_command_line(parsed.options))


def split_verb(argv: list[str]) -> tuple[str, list[str]]:
    """The verb and what follows it. As in `yolo`, a task may stand before the verb, and `mode=train` may stand for it."""
    tokens = list(argv)
    if tokens and tokens[0] in TASKS:
        tokens = [*tokens[1:2], tokens[0], *tokens[2:]]
    if tokens and "=" not in tokens[0]:
        return tokens[0], tokens[1:]
    modes = [token for token in tokens if token.startswith("mode=")]
    if tokens and not modes:
        raise UserError(f"{tokens[0]!r} comes before a verb: type, for example, yolov12 train {tokens[0]}")
    return (modes[-1].partition("=")[2] if modes else ""), [token for token in tokens if token not in modes]


def _show(lines: Iterable[str]) -> int:
    """Print a page; a reader that has seen enough (`| head`) is no failure."""
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        _discard_output()
    return 0


def _reader_is_gone() -> bool:
    """Whether what this prints goes to a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are always told
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _discard_output() -> None:
    """Or Python complains when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def overview() -> Iterator[str]:
    """The page of `yolov12 --help`, from the tables of verbs and settings."""
    yield f"yolov12 {__version__}: train, validate, run and export YOLOv12 and its relatives, on NVIDIA GPUs or the CPU"
    yield ""
    yield "  yolov12 VERB key=value ...        --key value and --key=value do too"
    yield ""
    for verb in VERBS.values():
        yield f"  {verb.name:9} {verb.summary}"
        yield f"            yolov12 {verb.example}"
    yield f"  planned: {', '.join(LATER)}"
    yield "  yolov12 VERB --help says more about a verb"
    yield ""
    yield from _settings_help(settings_page.help_lines())
    yield ""
    yield "exit codes: 0 done; 2 usage or bad input; 75 worth a retry; 130 interrupted by Ctrl-C; 143 asked to end by SIGTERM;"
    yield "            1: what doctor, verify, cache verify, bench, nccl-test or demo oom looked at is not as it should be;"
    yield "            1 with a traceback: a bug of this program; 141: what reads its output has ended"
    yield "Unofficial: not affiliated with the authors of YOLOv12 or Ultralytics. AGPL-3.0-or-later."


def verb_help(verb: Verb) -> Iterator[str]:
    """The page of `yolov12 VERB --help`."""
    yield f"yolov12 {verb.name}: {verb.summary}"
    yield ""
    yield f"  yolov12 {verb.example}"
    yield from (f"  {note}" for note in verb.notes)
    if verb.name in arguments_page.SHOWN:
        yield ""
        yield "arguments, their defaults and what ultralytics says about them:"
        yield from (f"  {line}" for line in arguments_page.lines(verb.name))
        yield "  Other arguments of ultralytics are taken too."
    elif keys := verb.keys():
        shown = (key if default is None else f"{key}={default}" for key, default in keys.items())
        yield ""
        yield "arguments:"
        yield textwrap.fill(" ".join(shown), 118, initial_indent="  ", subsequent_indent="  ")
    yield ""
    if verb.name == "env":
        yield from _settings_help(settings_page.long_help_lines())
    else:
        yield "settings, such as YOLOV12_OFFLINE=1 in the environment or offline=1 here: yolov12 env --help"


def task_help(task: str) -> Iterator[str]:
    """The page of `yolov12 help detect`: `yolo` takes such a word before the verb, and so do we."""
    verbs = [verb.name for verb in VERBS.values() if "task" in verb.keys()]  # noqa: SIM118  # it is no dict: this calls a function
    yield f"{task} is a task, and no verb: it may stand before a verb, as in `yolo`, or behind it, and need not, since a model says its task"
    yield ""
    yield f"  yolov12 {task} train data=my.yaml model=MODEL    |    yolov12 train data=my.yaml model=MODEL task={task}"
    yield ""
    yield f"verbs that take one: {', '.join(verbs)}; yolov12 VERB --help says more about a verb"
    yield f"tasks: {', '.join(TASKS)}; those other than detect run as in ultralytics"


def _settings_help(lines: Iterator[str]) -> Iterator[str]:
    yield "settings, their defaults and values; YOLOV12_OFFLINE=1 in the environment is offline=1 here (yolov12 env --help says more):"
    yield from (f"  {line}" for line in lines)


if __name__ == "__main__":
    sys.exit(main())

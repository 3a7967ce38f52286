# SPDX-License-Identifier: AGPL-3.0-or-later
"""One of the processes that launch.py starts: `python -m yolov12.engine.rank SCRIPT ARGUMENTS...` runs a script and reports how it ended.

The reason goes to the launcher, by the file that torch's elastic agent names in TORCHELASTIC_ERROR_FILE, and the exit code says of what kind
it is. Run by itself, the script would end with a traceback and exit code 1 whatever the reason.
"""

from __future__ import annotations

import ctypes
import runpy
import signal
import sys

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from yolov12.engine.termination import unheard
from yolov12.mistakes import as_exit

PR_SET_PDEATHSIG = 1
"""linux/prctl.h."""


def end_with_the_launcher() -> None:
    """Have the kernel send SIGTERM when the launcher is gone, also if it was killed: ranks that nobody watches would train on, unseen."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main(script: str, *arguments: str) -> int:
    """The exit code. A bug keeps its traceback, and the exception that made it."""
    end_with_the_launcher()
    handler = get_error_handler()
    handler.initialize()
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception as error:
        with unheard():
            known = as_exit(error)
            handler.record_exception(known or error)
        if known is None:
            raise
        return known.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whoever fails says why to the others, wherever in a run it was: in a step, in a loader, in a callback, or while a checkpoint was saved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from yolov12.distributed import patience, pulse
from yolov12.distributed.pulse import Pulse
from yolov12.engine.termination import unheard
from yolov12.errors import ExitError, PeerFailedError
from yolov12.log import warn
from yolov12.memory.failure import one_line
from yolov12.mistakes import sentence


@contextmanager
def telling_the_others() -> Iterator[None]:
    """Around a rank's whole training: whatever ends it is left where the peers find it, and what a peer's end broke says who that was."""
    try:
        yield
    except Exception as error:
        beat = pulse.current()
        if beat is None:
            raise
        with (
            unheard()
        ):  # a launcher that saw another process end asks this one to end, too, while it finds out about it
            known = _as_lost_peer(error, beat)
            last = known or error
            words = sentence(last) if isinstance(last, ExitError) else one_line(last)
            warn(f"at step {beat.step}: {words}")
            pulse.last_words(words)
        if known is not None:
            raise known from error
        raise


def _as_lost_peer(error: Exception, beat: Pulse) -> PeerFailedError | None:
    """Where a collective failed because of a peer, which one that was."""
    return PeerFailedError(patience.explained(beat, str(error).splitlines()[0])) if is_lost_connection(error) else None


def is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed because a peer is gone or late."""
    text = str(error)
    return isinstance(error, RuntimeError) and (
        isinstance(error, dist.DistError)
        or "gloo" in text
        or bool(re.search(r"(Connection|Socket).*(closed|reset)", text))
    )

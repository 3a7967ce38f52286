# SPDX-License-Identifier: AGPL-3.0-or-later
"""All ranks of a run must have the same versions, settings and arguments: compared once, right after they have joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.distributed as dist

from yolov12.distributed.patience import collect
from yolov12.errors import UserError
from yolov12.log import say

MOST_SHOWN = 12


def check(mine: Mapping[str, object], group: dist.ProcessGroup | None, only_warn: Sequence[str] = ()) -> None:
    """Compare what every rank says of itself. All ranks must call it, and all of them end where one differs.

    Args:
        mine: what must be the same everywhere, by the name that the user knows it by.
        only_warn: names for which a difference is worth a line, and no more.

    Raises:
        UserError: all differences, with the ranks that have them.
        PeerFailedError: another rank ended, or did not call it in time.
    """
    said = {name: str(value) for name, value in mine.items()}
    everyone = [said] if group is None else collect(said, group)
    found = differences(everyone)
    for name in only_warn:
        if name in found:
            say(f"WARNING the ranks differ in {name}: {found[name]}")
    wrong = [f"{name} ({words})" for name, words in found.items() if name not in only_warn]
    if wrong:
        more = f", and {len(wrong) - MOST_SHOWN} more" if len(wrong) > MOST_SHOWN else ""
        raise UserError(
            f"the ranks of this run differ in {', '.join(wrong[:MOST_SHOWN])}{more}: start all of them with the same command and image"
        )


def differences(everyone: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Name -> which ranks have which value, for what is not the same for all of them."""
    names = dict.fromkeys(name for one in everyone for name in one)
    found = {}
    for name in names:
        ranks_of: dict[str, list[int]] = {}
        for rank, one in enumerate(everyone):
            ranks_of.setdefault(one.get(name, "nothing"), []).append(rank)
        if len(ranks_of) > 1:
            found[name] = "; ".join(f"{value} on {ranks_in_words(ranks)}" for value, ranks in ranks_of.items())
    return found


def ranks_in_words(ranks: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "ranks 0-2, 5"."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and spans[-1][-1] == rank - 1:
            spans[-1][1:] = [rank]
        else:
            spans.append([rank])
    written = ", ".join("-".join(map(str, span)) for span in spans)
    return f"rank{'s' if len(ranks) > 1 else ''} {written}"

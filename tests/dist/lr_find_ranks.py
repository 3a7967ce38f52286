# SPDX-License-Identifier: AGPL-3.0-or-later
"""One rank of a range test, started by torchrun or alone: `lr_find_ranks.py DATA WEIGHTS FOLDER`. Leaves what it saw in FOLDER/rank<N>.json.

Batch norm is synchronised and weights are given (ultralytics makes new ones from another seed on each rank), so that two ranks see what one
process with the whole batch sees.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.unit.tools.lr_find_state import SMALL, changed, held
from yolov12.tools import lr_find
from yolov12.tools.lr_find import LrFindTrainer

LRS = [1e-5, 1e-4, 1e-3, 1e-2]


class Watched(LrFindTrainer):
    """A range test of four updates that is looked at before, in its middle and afterwards."""

    def _run(self) -> None:
        run, before, middle = lr_find.run, {}, {}

        def short(loop, lrs):
            before.update(held(self))
            curve = run(loop, LRS)
            middle.update(held(self))
            return curve

        lr_find.run, lr_find.report = short, lambda trainer: None
        super()._run()
        seen = {
            "lrs": self.curve.lrs,
            "losses": self.curve.losses,
            "changed_by_the_test": sorted({name.split()[0] for name in changed(before, middle)}),
            "changed_afterwards": changed(before, held(self)),
        }
        (Path(sys.argv[3]) / f"rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    Watched(
        overrides=SMALL
        | {
            "model": sys.argv[2],
            "data": sys.argv[1],
            "project": sys.argv[3],
            "name": f"run{os.environ.get('RANK', '')}",
            "mode": "train",
            "mosaic": 0.0,  # its partners are pictures that a process has read lately
        }
    ).train()

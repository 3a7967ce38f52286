#!/usr/bin/env python
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python utils/lr_finder.py --model yolov12s.yaml --data coco.yaml --batch 256`: the verb `yolov12 lr-find`."""

from __future__ import annotations

import sys

from yolov12.cli import main

if __name__ == "__main__":
    sys.exit(main(["lr-find", *sys.argv[1:]]))

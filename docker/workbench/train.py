#!/usr/bin/env python
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python train.py --data coco.yaml --model yolov12s.yaml --batch 256 --device auto`: the verb `yolov12 train`, also under torchrun."""

from __future__ import annotations

import sys

from yolov12.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

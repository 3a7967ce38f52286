# SPDX-License-Identifier: AGPL-3.0-or-later
"""Run by test_handover.py in a process of its own: read two epochs with real workers and print what arrived.

python shm_child.py DATA detect|classify ours|stock
"""

from __future__ import annotations

import hashlib
import json
import sys

import torch
from ultralytics.cfg import get_cfg
from ultralytics.data import ClassificationDataset, build_yolo_dataset
from ultralytics.data.build import build_dataloader as stock


def main(data: str, task: str, whose: str, patience_s: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build = stock
    if whose == "ours":
        from yolov12.data import adapter

        adapter.install()
        build = adapter.build_dataloader
    args = get_cfg(overrides={"imgsz": 320, "task": task, "workers": 2, "auto_augment": None})
    if task == "classify":
        dataset = ClassificationDataset(f"{data}/train", args, augment=True)
    else:
        dataset = build_yolo_dataset(args, f"{data}/images/train", 8, {"names": {0: "a", 1: "b", 2: "c"}})
    loader = build(dataset, batch=8, workers=2, shuffle=True, device="cpu")
    loader.timeout = float(patience_s)
    digest, writable, kinds = hashlib.sha256(), True, set()
    for _ in range(2):
        for batch in loader:
            for key in sorted(batch):
                value = batch[key]
                kinds.add(f"{key}: {type(value).__name__}")
                if isinstance(value, torch.Tensor):
                    digest.update(value.numpy().tobytes())
                    value[:1] = value[:1]
                    writable &= value.numpy().flags.writeable
    print(
        json.dumps(
            {"digest": digest.hexdigest(), "writable": writable, "kinds": sorted(kinds), "workers": loader.num_workers}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

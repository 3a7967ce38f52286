# SPDX-License-Identifier: AGPL-3.0-or-later
"""Your own training loop, with the model, attention, loader, loss and precision that `yolov12 train` uses.

    python examples/custom_loop.py my.yaml

Prefer it to `YOLO(...).train(...)` where a step must do something of its own. You give up what the trainer adds: schedule,
EMA, validation, resume, several GPUs, and the retry after an out-of-memory.
"""

import sys
from pathlib import Path

import torch
from ultralytics.cfg import get_cfg
from ultralytics.data import build_dataloader, build_yolo_dataset
from ultralytics.data.utils import check_det_dataset

from yolov12 import YOLO, precision


def train(data_yaml: str, epochs: int = 3, imgsz: int = 640, batch: int = 16, out: str = "custom.pt") -> list[float]:
    """Train yolov12n from scratch, save it for `YOLO(out)`, and return the mean loss per image of every step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args = get_cfg(overrides={"data": data_yaml, "imgsz": imgsz, "batch": batch, "workers": 4})
    data = check_det_dataset(data_yaml)

    yolo = YOLO("yolov12n.yaml")  # also puts our attention into the model classes
    model = type(yolo.model)(yolo.model.yaml, nc=data["nc"], verbose=False).to(device).train()
    yolo.model, model.names, model.args = model, data["names"], args  # the loss reads its weights from args

    dataset = build_yolo_dataset(args, data["train"], batch, data, stride=int(model.stride.max()))
    loader = build_dataloader(dataset, batch, args.workers, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=5e-4)
    dtype, reason = precision.choose(device)
    scaler = precision.YoloAMPScaler(device.type, enabled=dtype is torch.float16)
    print(f"{len(dataset)} images, {device}, {reason}")

    losses = []
    for epoch in range(epochs):
        for targets in loader:  # img (B, 3, H, W) uint8; cls (n, 1), bboxes (n, 4) xywh in 0..1, batch_idx (n,)
            targets = {key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in targets.items()}
            targets["img"] = targets["img"].float() / 255
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss, parts = model.loss(targets)  # box, cls and dfl, each multiplied by the number of images
            optimizer.zero_grad()
            scaler.scale(loss.sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.sum().item() / len(targets["img"]))  # waits for the GPU: log less often in a long run
        print(
            f"epoch {epoch + 1}: loss {losses[-1]:.3f}", {name: round(float(part), 3) for name, part in parts.items()}
        )
    model.args = vars(args)  # checkpoints hold plain types
    yolo.save(Path(out))
    return losses


if __name__ == "__main__":
    train(sys.argv[1] if len(sys.argv) == 2 else sys.exit("type python examples/custom_loop.py my.yaml"))

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Your own training loop, with the model, attention, loader, loss and precision that `yolov12 train` uses.

    python examples/custom_loop.py my.yaml --epochs 10        # --help shows all options

Prefer it to `YOLO(...).train(...)` where a step must do something of its own. You give up what the trainer adds: schedule,
EMA, validation, resume, several GPUs, and the retry after an out-of-memory.
"""

import argparse
from pathlib import Path

import torch
from ultralytics.cfg import get_cfg
from ultralytics.data import build_dataloader, build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils.torch_utils import select_device

from yolov12 import YOLO, precision


def train(data: str, model: str, epochs: int, imgsz: int, batch: int, device: str, out: str) -> list[float]:
    """Train a network, save it for `YOLO(out)`, and return the mean loss per image of every step."""
    place = select_device(device, verbose=False)
    args = get_cfg(overrides={"data": data, "imgsz": imgsz, "batch": batch, "workers": 4})
    found = check_det_dataset(data)

    yolo = YOLO(model)  # also puts our attention into the model classes
    network = type(yolo.model)(yolo.model.yaml, nc=found["nc"], verbose=False)
    if model.endswith(".pt"):
        network.load(yolo.model)
    network = network.to(place).train()
    yolo.model, network.names, network.args = network, found["names"], args  # the loss reads its weights from args

    dataset = build_yolo_dataset(args, found["train"], batch, found, stride=int(network.stride.max()))
    loader = build_dataloader(dataset, batch, args.workers, device=place)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=5e-4)
    dtype, reason = precision.choose(place)
    scaler = precision.YoloAMPScaler(place.type, enabled=dtype is torch.float16)
    print(f"{len(dataset)} images, {place}, {reason}")

    losses = []
    for epoch in range(epochs):
        for targets in loader:  # img (B, 3, H, W) uint8; cls (n, 1), bboxes (n, 4) xywh in 0..1, batch_idx (n,)
            targets = {key: x.to(place) if isinstance(x, torch.Tensor) else x for key, x in targets.items()}
            targets["img"] = targets["img"].float() / 255
            with torch.autocast(place.type, dtype, enabled=dtype is not None):
                loss, parts = network.loss(targets)  # box, cls and dfl, each multiplied by the number of images
            optimizer.zero_grad()
            scaler.scale(loss.sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.sum().item() / len(targets["img"]))  # waits for the GPU: log less often in a long run
        print(
            f"epoch {epoch + 1}: loss {losses[-1]:.3f}", {name: round(float(part), 3) for name, part in parts.items()}
        )
    network.args = vars(args)  # checkpoints hold plain types
    yolo.save(Path(out))
    return losses


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `train`, from the command line if no words are given."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("data", help="yaml of a data set, such as my.yaml")
    parser.add_argument("--model", default="yolov12n.yaml", help="a yaml to train from scratch, a .pt to begin with")
    parser.add_argument("--epochs", type=int, default=3, help="how often each image is seen")
    parser.add_argument("--imgsz", type=int, default=640, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=16, help="images of a step")
    parser.add_argument("--device", default="", help="cpu, or the number of a GPU; empty: a GPU where there is one")
    parser.add_argument("--out", default="custom.pt", help="the file that is written")
    return parser.parse_args(words)


if __name__ == "__main__":
    train(**vars(options()))

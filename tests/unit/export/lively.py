# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small untrained model that is no constant."""

import torch


def lively_model(seed, name="yolo12n.yaml"):
    """A network whose outputs depend on its input: without batch-norm statistics a fresh one gives its biases alone."""
    from ultralytics import YOLO

    torch.manual_seed(seed)
    model = YOLO(name)
    norms = [module for module in model.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.model.train()(torch.rand(8, 3, 160, 160))
    for norm in norms:
        norm.momentum = 0.03
    return model

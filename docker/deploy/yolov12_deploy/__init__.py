# SPDX-License-Identifier: AGPL-3.0-or-later
"""Run exported YOLO detection models with ONNX Runtime: the package of the `deploy` image, which has no torch.

from yolov12_deploy.model import Detector
"""

import os

# Else ONNX Runtime writes down an identifier of the machine when it is imported, and sends events (its Privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

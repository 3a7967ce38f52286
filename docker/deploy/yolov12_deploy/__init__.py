# SPDX-License-Identifier: AGPL-3.0-or-later
"""Run exported YOLO detection models: the package of the images without torch, `deploy` and `deploy-ort`.

from yolov12_deploy.model import Detector
"""

import os

# Else ONNX Runtime writes down an identifier of the machine when it is imported, and sends events (its Privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

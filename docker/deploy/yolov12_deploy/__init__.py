# SPDX-License-Identifier: AGPL-3.0-or-later
"""Run exported YOLO detection models: the package of the images without torch, `deploy` and `deploy-ort`.

from yolov12_deploy.model import Detector
"""

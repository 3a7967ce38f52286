# SPDX-License-Identifier: AGPL-3.0-or-later
"""Scoring of detections in bulk: what ultralytics does image by image, done for a batch or a whole data set at once, with the same answers.

Nothing here knows a validator or a model; `engine/validator.py` composes it.
"""

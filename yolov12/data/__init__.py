# SPDX-License-Identifier: AGPL-3.0-or-later
"""Data: a bundled synthetic set, checks before training, a label cache without pickle, and the loader's adapter to ultralytics."""

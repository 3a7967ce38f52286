# SPDX-License-Identifier: AGPL-3.0-or-later
"""Programs behind every number that this project states: the stock library and ours, side by side in one call.

`python -m benchmarks list | run NAME... | report`. How to read and add one: docs/benchmarks.md.

Nothing here may import `yolov12` outside the code that measures our side: the stock side runs in a process that must
not have loaded it.
"""

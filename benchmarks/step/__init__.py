# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 bench step`: where the time of a training step goes.

command.py     reads what was typed, runs, prints
training.py    a model that trains, on a drawn batch or on a data set
phases.py      marks in the profiler's trace where a phase of the step begins
work.py        counts operations and bytes of a step
ceilings.py    what the device can do: a large copy, a large matrix product
trace.py       from a trace to numbers (pure)
kinds.py       from a kernel's name to its kind (pure)
table.py       from numbers to lines (pure)
"""

# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 doctor`: what here works, what does not, why, and what to type.

result          what a check says
world           all that checks look at, as one value
look            the real world; what does not answer is absent from it
cgroup          limits of the container that this runs in
nvml            what the driver's library says
probes          what has to be tried to be known
gpu_checks      driver, GPU code, attention, clocks, links
machine_checks  shared memory, limits, cores, folders, disks, loader
install_checks  settings, versions, caches, network, weights
report          the registry of checks, lines and JSON
"""

from yolov12.tools.doctor.report import main

__all__ = ["main"]

# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `programs/kernels.py` is made of: our CUDA kernels (docker/kernels) beside what torch and cuDNN do, one shape after the other.

shapes.py     what a network asks of a kernel, collected from the network itself without data
contest.py    several ways to do the same on a shape, what each took, and which constants of ours were not the best
clock.py      how they are timed on a GPU
inference.py  kernels of predictions, and whole networks of them
training.py   kernels of training
"""

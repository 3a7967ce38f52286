# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a wheel with a compiled library of torch ops is made here, whatever the library: the same from the same sources, to the byte.

build.py   compile and link against another interpreter's torch, with nvcc from wheels and without Python's headers
wheel.py   pack the result; it serves every Python that has that torch

Runs on Debian's own Python in the build, so nothing but the standard library is used.
"""

# SPDX-License-Identifier: AGPL-3.0-or-later
"""The programs in /root/yolov12/build, which carry the names of NVIDIA's and say that they are ours. Without a GPU they run on the CPU."""

import re

import pytest

from tests.image.harness import STRANGER, Image
from tests.image.test_contents import promised


@pytest.mark.parametrize("name", ["all_reduce_perf", "p2pBandwidthLatencyTest"])
def test_the_check_runs_between_two_ranks_and_says_whose_it_is(image: Image, name: str):
    if name == "all_reduce_perf" and promised(image)["nccl_tests"] == "1":
        assert image.run("head", "--bytes=4", f"/root/yolov12/build/{name}").out == "\x7fELF"
        pytest.skip("NVIDIA's own program is there, and it needs a GPU")
    options = (*STRANGER, "--workdir=/root/yolov12")
    ran = image.run(f"./build/{name}", "-b", "1K", "-e", "1K", "-n", "1", "-w", "0", options=options, timeout_s=240)
    assert ran.code == 0, str(ran)
    # torch 2.9's gloo says on stdout to whom it is connected, two ranks at once.
    ours = [line for line in ran.out.splitlines() if not re.match(r"\[Gloo\]|\d*( is connected to .*)?$", line)]
    assert "not NVIDIA's program" in ours[0]
    assert "gloo" in ran.log

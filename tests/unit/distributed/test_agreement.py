# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is said of ranks that were not started alike. tests/dist runs it between two of them."""

from yolov12.distributed.agreement import check, differences, ranks_in_words


def test_each_difference_is_told_with_the_ranks_that_have_it():
    ranks = [
        {"torch": "2.11", "batch": "8"},
        {"torch": "2.11", "batch": "8"},
        {"torch": "2.10", "batch": "8", "amp": "1"},
    ]
    assert differences(ranks) == {
        "torch": "2.11 on ranks 0-1; 2.10 on rank 2",
        "amp": "nothing on ranks 0-1; 1 on rank 2",
    }


def test_ranks_are_written_shortly():
    assert ranks_in_words([3]) == "rank 3"
    assert ranks_in_words([0, 1, 2, 5, 7, 8]) == "ranks 0-2, 5, 7-8"


def test_a_process_alone_agrees_with_itself():
    check({"torch": "2.11"}, None)

# SPDX-License-Identifier: AGPL-3.0-or-later
"""What memory a step needs and what to do when there is not enough. Knows nothing of the trainer."""

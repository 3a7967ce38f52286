# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several processes training one model: who they are, how they vote, how gradients are summed. Knows nothing of the trainer."""

# SPDX-License-Identifier: AGPL-3.0-or-later
"""The trainer and what it composes from the other rooms."""

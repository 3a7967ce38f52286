# SPDX-License-Identifier: AGPL-3.0-or-later
"""Model names, weights and attention. Nothing is imported here: each module is imported where it is used."""

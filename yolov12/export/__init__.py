# SPDX-License-Identifier: AGPL-3.0-or-later
"""Exported models, and the proof that they compute what their source does. Import from the modules."""

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Programs behind the verbs: each wires rooms of the package together. Import from the modules."""

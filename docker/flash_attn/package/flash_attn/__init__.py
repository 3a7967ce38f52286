# SPDX-License-Identifier: AGPL-3.0-or-later
"""FlashAttention-2 for head dimension 32, with upstream's function names; every other case runs on torch's SDPA, after one notice.

`__version__` says what was built: upstream's version, `+hd32`, and the GPU archs that there is code for.
"""

from flash_attn._build import VERSION as __version__
from flash_attn.flash_attn_interface import flash_attn_func, flash_attn_qkvpacked_func, why_not

__all__ = ["__version__", "flash_attn_func", "flash_attn_qkvpacked_func", "why_not"]

"""DAMO (Dual Alignment Maximin Optimization, arXiv 2502.00850) for OfflineRL-Kit."""

from __future__ import annotations

__version__ = "0.1.0"

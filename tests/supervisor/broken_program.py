"""A worker program that cannot be imported."""

from __future__ import annotations

raise RuntimeError("the configuration is broken")

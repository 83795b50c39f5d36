"""What tests stand on: engines without models, clocks that are moved by hand, and conformance suites.

Importing this package adds the scheme ``fake:`` to the engines.
"""

from __future__ import annotations

from sage.engines.base import ENGINES
from sage.testing.clock import ManualClock, VirtualTimeLoop, run_virtual
from sage.testing.fake import FakeEngine

__all__ = ["FakeEngine", "ManualClock", "VirtualTimeLoop", "run_virtual"]

ENGINES["fake"] = ("sage.testing.fake", "open_fake")

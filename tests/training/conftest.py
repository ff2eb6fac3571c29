"""Makes the modules of `scripts/` and `examples/` importable, as they are for the scripts
themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
sys.path += [str(_ROOT / "scripts"), str(_ROOT / "examples")]

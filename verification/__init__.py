"""What is proved about the pool, and by what. See README.md."""

import os
import sys
from pathlib import Path

os.environ.setdefault("MEMPOOL_LONG", "1")  # whoever judges by the tests wants whole sweeps, and no samples of them
# What the tests are made of: at the end, so that it takes no other module's place.
sys.path += [str(Path(__file__).resolve().parent.parent / folder) for folder in ("tests", "tests/shared")]

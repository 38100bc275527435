"""`python -m verification`: the schedules, then the models. Status 1 if anything is not as it must be.

Where spin is not installed, the models are skipped, and the last line says so.
"""

import sys

from verification.schedules.run import main as search_schedules
from verification.spin.run import NOT_INSTALLED
from verification.spin.run import main as search_models

schedules = search_schedules()
models = search_models()
print("models: skipped, spin is not installed" if models == NOT_INSTALLED else f"models: status {models}")
sys.exit(1 if schedules or models not in {0, NOT_INSTALLED} else 0)

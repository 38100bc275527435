"""`python -m verification.schedules`, see run.py."""

import sys

from verification.schedules.run import main

sys.exit(main())

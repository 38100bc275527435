"""`python -m verification.spin`, see run.py."""

import sys

from verification.spin.run import main

sys.exit(main())

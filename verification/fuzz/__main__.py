"""`python -m verification.fuzz`, see run.py."""

import sys

from verification.fuzz.run import main

sys.exit(main())

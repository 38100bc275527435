"""`python -m verification.ordering`, see run.py."""

import sys

from verification.ordering.run import main

sys.exit(main())

"""`python -m mulo.conformance`."""

import sys

from mulo.conformance.command import main

sys.exit(main())

"""`python -P -m studies.tracking`: the mirroring process."""

import sys

from .process import main

sys.exit(main())

"""`python -m ablate.studies.tracking`: the mirroring process."""

import sys

from .process import main

sys.exit(main())

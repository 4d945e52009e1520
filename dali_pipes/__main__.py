"""`python -m dali_pipes` is `dali-pipes`."""

import sys

from dali_pipes.cli import main

sys.exit(main())

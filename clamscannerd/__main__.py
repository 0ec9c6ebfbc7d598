"""[as started] python -m clamscannerd: the same as the command `clamscannerd`."""

import sys

from clamscannerd.launch import main

sys.exit(main())

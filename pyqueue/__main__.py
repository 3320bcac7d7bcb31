"""``python -m pyqueue`` is the command ``pyqueue``."""

import sys

from .cli import main

sys.exit(main())

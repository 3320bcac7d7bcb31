"""``python -m pyqueue.worker module:function --queue job2``."""

import sys

from ._command import main

if __name__ == "__main__":
    sys.exit(main())

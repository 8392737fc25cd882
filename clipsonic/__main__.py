"""`python -m clipsonic` is the command `clipsonic`. This file and `__init__.py` come from no notebook."""
import sys

from clipsonic.cli import main

if __name__ == "__main__": sys.exit(main())

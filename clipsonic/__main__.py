"""`python -m clipsonic` is the command `clipsonic`. This file is the package's only one that no notebook exports."""
import sys

from clipsonic.cli import main

if __name__ == "__main__": sys.exit(main())

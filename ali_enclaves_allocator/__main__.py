"""Entry point of `ali-enclaves-allocator`."""

import sys

from ali_enclaves_allocator.cli import main

if __name__ == "__main__":
    sys.exit(main())

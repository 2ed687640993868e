"""Entry point of `enclave-cli`."""

import sys

from enclave_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())

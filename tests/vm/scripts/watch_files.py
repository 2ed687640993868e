"""Reads kernel files, over and over, and prints a line each time that one of them is different from before."""

import sys
import time
from pathlib import Path

paths = [Path(path) for path in sys.argv[1:]]
last = None
while True:
    seen = " ".join(path.read_text().strip() for path in paths)
    if seen != last:
        print(seen, flush=True)
        last = seen
    time.sleep(0.002)

"""What `curl -s URL` prints: `python -m tests.guide.fetched URL`."""

from __future__ import annotations

import sys
from urllib.request import urlopen

if __name__ == "__main__":
    with urlopen(sys.argv[1], timeout=30) as answer:
        sys.stdout.write(answer.read().decode())

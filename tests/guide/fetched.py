"""What `curl -s URL`, or `curl -s URL --json DATA`, prints: `python -m tests.guide.fetched URL`."""

from __future__ import annotations

import sys
from urllib.request import Request, urlopen

if __name__ == "__main__":
    data = sys.argv[3].encode() if sys.argv[2:3] == ["--json"] else None
    with urlopen(Request(sys.argv[1], data, {"content-type": "application/json"}), timeout=30) as answer:
        sys.stdout.write(answer.read().decode())

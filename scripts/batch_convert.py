#!/usr/bin/env python3
"""Convert all models that a manifest lists; the same as ``ckptfmt batch``.

    python scripts/batch_convert.py MANIFEST [--jobs N] [--engine ray --address HOST:PORT] …

docs/batch.md has the manifest and the options.
"""

from __future__ import annotations

import sys

from ckptfmt.cli import main

if __name__ == "__main__":
    main(["batch", *sys.argv[1:]], prog_name="batch_convert.py")

"""``python -m ckptfmt``."""

from ckptfmt.cli import main

main()

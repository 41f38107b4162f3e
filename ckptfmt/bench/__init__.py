"""``ckptfmt bench``: why a load is as slow as it is, and which piece to change."""

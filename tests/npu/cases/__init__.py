"""What children of tests/npu try; each function is one case (tests/helpers/npu_cases.py)."""

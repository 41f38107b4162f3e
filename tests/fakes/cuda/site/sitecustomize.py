"""With this folder on PYTHONPATH every Python has GPUs of the fake CUDA."""

from tests.helpers import cuda_fake

cuda_fake.pretend()

"""`pytest tests/gpu` runs on a GPU, and is skipped where there is none; with `--device cpu` it is tiny."""

import pytest
import torch


@pytest.fixture(scope="session")
def device(request) -> str:
    """`cuda` or `cpu`."""
    chosen = request.config.getoption("--device")
    if chosen == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    return chosen


@pytest.fixture
def gpu(device) -> str:
    """`cuda`, for what a CPU has not."""
    if device == "cpu":
        pytest.skip("needs a GPU")
    return device


@pytest.fixture(autouse=True)
def _arithmetic(device):
    """Products in full float32, and one thread on the CPU."""
    if device == "cpu":
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

"""What makes training on a CPU faster without changing what is computed. All of it holds for the whole process."""

import ctypes
import platform

import torch

# malloc.h of the GNU C library
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets freed memory stay with the process; True where the C library is the one that can.

    glibc gives every large block back to the system when it is freed and gets it as new, zeroed pages for the next
    step: at 32,016 pieces that took a third of the time of head and loss.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))


def use_fast_float32_products() -> bool:
    """Lets oneDNN compute float32 products where that is exact enough; True where it does.

    On some CPUs PyTorch's float32 products go to a slower library unless the precision is "medium"; on others
    "medium" really computes in bfloat16, so the error decides.
    """
    torch.set_float32_matmul_precision("medium")
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    error = ((a @ b).double() - exact).norm() / exact.norm()
    if error > 1e-5:
        torch.set_float32_matmul_precision("highest")
    return bool(error <= 1e-5)

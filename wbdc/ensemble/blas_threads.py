"""BLAS on one thread: the matrices of a fit are small, and further threads would mostly wait."""

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread, in all threads of this process; also decorates a function.

    BLAS uses all CPUs otherwise, and the order of its sums depends on their number.
    """
    with threadpool_limits(1, user_api="blas"):
        yield

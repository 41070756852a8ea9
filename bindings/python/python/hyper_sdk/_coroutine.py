"""The coroutines of `AsyncHyper`."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from typing import Any


def settle(future: Future[Any], result: Any, error: BaseException | None) -> None:
    """Gives a future its result or its exception, unless it was cancelled."""
    if future.done():
        return
    if isinstance(error, StopIteration):
        # A future cannot have this exception.
        wrapped = RuntimeError("a callback or a file object raised StopIteration")
        wrapped.__cause__ = error
        error = wrapped
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def operation(start: Callable[[], Future[Any]]) -> Any:
    """Starts an operation when it is awaited, and waits for it. Cancelling it cancels the work."""
    return await start()

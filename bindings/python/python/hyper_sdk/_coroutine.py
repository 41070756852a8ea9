"""What the methods of `AsyncHyper` return."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from typing import Any


async def operation(start: Callable[[], Future[Any]]) -> Any:
    """Starts an operation when it is awaited, and waits for it. Cancelling it cancels the work."""
    return await start()

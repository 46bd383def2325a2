"""The pool for blocking work, where its event loop is busy."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from milvus_coop.serving.gateway.pool import Pool

LIMIT_S = 0.05


def outcome(ends_with: Exception | None) -> str:
    """What `run` gives for a function that ends after its time limit, before the event loop comes to tell the caller of that."""
    pool, go, ended = Pool("test", 1, 1, LIMIT_S), threading.Event(), threading.Event()

    def work() -> str:
        go.wait()
        ended.set()
        if ends_with:
            raise ends_with
        return "an answer"

    def finish() -> None:
        go.set()
        ended.wait()
        time.sleep(LIMIT_S)  # the thread has something to do after its function

    async def busy() -> str:
        running = asyncio.ensure_future(pool.run(work))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(LIMIT_S + 0.001, finish)
        time.sleep(2 * LIMIT_S)  # both the limit and `finish` are overdue then, in this order
        return await running

    try:
        return asyncio.run(busy())
    finally:
        pool.close()


def test_an_answer_that_came_while_the_loop_was_busy_is_given() -> None:
    assert outcome(None) == "an answer"


@pytest.mark.parametrize("error", [ValueError("a bug"), TimeoutError("of the function itself")])
def test_so_is_an_error(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        outcome(error)

"""Asking the judge: several requests at a time, each judgment written as it comes.

When something fails for good, no further request is sent; those under way are waited for, since they are paid for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from unmask.errors import UnmaskError
from unmask.evals.journal import Journal
from unmask.evals.mtbench import judging
from unmask.evals.mtbench.endpoint import Endpoint, Reply
from unmask.evals.mtbench.judging import Task


def grade(
    endpoint: Endpoint,
    wanted: Sequence[Task],
    judge: str,
    journal: Journal,
    *,
    body: Mapping[str, Any],
    parallel: int = 1,
    on_judged: Callable[[], None] = lambda: None,
) -> None:
    """Have `judge` make the judgments `wanted`; `body` is what each request has beside model and messages.

    Fields of `body` that are None are left out. Raises as `Endpoint.complete`; what was judged before is written.
    """
    given = {name: value for name, value in body.items() if value is not None}

    def ask(task: Task) -> Reply:
        return endpoint.complete({"model": judge, "messages": task.messages, **given})

    def keep(task: Task, reply: Reply) -> None:
        journal.write(judging.to_record(task, judge, reply))
        on_judged()

    pool = ThreadPoolExecutor(parallel)
    futures: dict[Future[Reply], Task] = {pool.submit(ask, task): task for task in wanted}
    try:
        for future in as_completed(futures):
            reply = future.result()
            keep(futures.pop(future), reply)
    finally:
        if futures:
            endpoint.stopped.set()
        pool.shutdown(cancel_futures=True)
        for future, task in futures.items():
            if not future.cancelled():
                with contextlib.suppress(UnmaskError):
                    keep(task, future.result())

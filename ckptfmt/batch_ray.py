"""The same items on a Ray cluster: a task for each, tried again where a node was lost."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from ckptfmt.batch import TICK_S, Interrupts, Running
from ckptfmt.batch_job import empty_result, ended, fail, perform
from ckptfmt.errors import MissingDependencyError, OptionError
from ckptfmt.version import VERSION

if TYPE_CHECKING:
    from ckptfmt.batch import Ledger
    from ckptfmt.batch_report import Result
    from ckptfmt.manifest import Item

#: How often an item is begun again that was lost with its worker or node.
RETRIES = 3
#: How long a task waits for the one it replaces to let go of the target.
PATIENCE_S = 120.0
#: How long the cluster may take to answer.
CONNECT_S = 10.0
#: How long tasks may take to stop.
STOP_S = 60.0


class RayBatch:
    """Runs items on a cluster, whose nodes all see the manifest's folder and have this ckptfmt.

    Parameters
    ----------
    ledger : Ledger
        The items.
    jobs : int or None
        At a time, at most; None for as many as the cluster has processors.
    address : str
        Of the cluster; ``auto`` for the one this machine is in.
    """

    def __init__(self, ledger: Ledger, *, jobs: int | None, address: str) -> None:
        self.ledger = ledger
        self.jobs = jobs
        self.address = address
        self._running: dict[Any, tuple[Item, float]] = {}  # by the reference of the task's result

    def run(self) -> list[Result]:
        """Until all have ended.

        Raises
        ------
        MissingDependencyError
            ray is not installed.
        OptionError
            No cluster answers at the address.
        KeyboardInterrupt
            After all tasks were told to stop; the ledger has what became of each item.
        """
        ray, ledger = _import_ray(), self.ledger
        ours = not ray.is_initialized()
        if ours:
            _connect(ray, self.address)
        try:
            jobs = self.jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
            task = ray.remote(num_cpus=1, max_retries=RETRIES)(perform_on_node)
            with Interrupts() as interrupts:
                while (ledger.waiting or self._running) and not interrupts.count:
                    while ledger.waiting and len(self._running) < jobs:
                        item = ledger.waiting.popleft()
                        ref = task.remote(item, ledger.folder, ledger.verify, VERSION)
                        self._running[ref] = (item, time.monotonic())
                    self._collect(ray)
                self._stop(ray, interrupts)
                if interrupts.count:
                    raise KeyboardInterrupt
            return ledger.results
        finally:
            if ours:
                ray.shutdown()

    def _collect(self, ray: Any) -> None:
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=TICK_S)
        for ref in ready:
            item, since = self._running.pop(ref)
            self.ledger.note(_result_of(ray, ref, item, since))
        now = time.monotonic()
        self.ledger.listener.show([
            Running(item, "on the cluster", 0, 0, now - since)
            for item, since in self._running.values()
        ])  # fmt: skip

    def _stop(self, ray: Any, interrupts: Interrupts) -> None:
        """Ask all tasks to end; on a second Ctrl-C, or after a time, have them ended."""
        for ref in self._running:
            ray.cancel(ref)
        deadline = time.monotonic() + STOP_S
        while self._running:
            if interrupts.count > 1 or time.monotonic() > deadline:
                for ref in self._running:
                    ray.cancel(ref, force=True)
            self._collect(ray)
        self.ledger.give_up()


def perform_on_node(item: Item, folder: str, verify: bool, version: str) -> Result:
    """The task, in a worker of Ray."""
    if version != VERSION:
        result = fail(
            empty_result(item), "VersionMismatch",
            f"this node has ckptfmt {VERSION}, the one that sends items {version}",
            "install the same on all",
        )  # fmt: skip
        return ended(result, 0.0)
    try:
        os.chdir(folder)
    except OSError as error:
        result = fail(
            empty_result(item), type(error).__name__, f"this node does not see the folder: {error}",
            "the manifest's folder has to be on a file system that all nodes share",
        )  # fmt: skip
        return ended(result, 0.0)
    return perform(item, verify=verify, patience_s=PATIENCE_S)


def _result_of(ray: Any, ref: Any, item: Item, since: float) -> Result:
    seconds = time.monotonic() - since
    try:
        result: Result = ray.get(ref)
    except ray.exceptions.TaskCancelledError:
        return ended(empty_result(item), seconds)
    except ray.exceptions.RayError as error:
        lines = str(error).splitlines() or [type(error).__name__]
        hint = f"lost more than {RETRIES} times; the next run goes on with it"
        return ended(fail(empty_result(item), type(error).__name__, lines[0], hint), seconds)
    return result


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"--engine ray needs ray: {error}", hint='pip install "ckptfmt[ray]"'
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "://" not in address:
            # Ray ends the process where nobody answers; so this is tried first.
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise OptionError(
            f"--address {address}: no Ray cluster answers there: {text}",
            hint="ray start --head makes one; ray status tells of one",
        ) from error

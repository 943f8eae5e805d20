"""Runs as jobs of submitit: on SLURM as an array, requeued when preempted; on this machine by its local executor.

A job holds one training process. When the job is told that its time is up or that it is preempted, the training saves
and ends, and the job asks to be queued again: the training goes on from its checkpoint. Submitted jobs are remembered
in `jobs/submitted.json`, so that a runner that comes back does not submit them twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from unmask.errors import UsageError
from unmask.scaling.launch import last_error, train_command
from unmask.scaling.plan import Plan, PlannedRun

SUBMITTED = "submitted.json"
STOP_SECONDS = 300
"""How long a training may take to save before it is killed."""


class Training:
    """A training process within a job. submitit calls `checkpoint` when the job is about to be stopped."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._command, self._log, self._environment = list(command), log, dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> str:
        """Train to the end; "" or why it failed."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        before = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as file:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            code = self._process.wait()
        except KeyboardInterrupt:
            self.stop()
            return "interrupted"
        if code == 0:
            return ""
        with self._log.open("rb") as file:
            file.seek(before)
            said = last_error(file.read().decode(errors="replace"))
        return f"killed by {signal.Signals(-code).name}" if code < 0 else said

    def stop(self) -> None:
        """Let the training save and end."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def checkpoint(self) -> Any:
        """What is to be queued again: the same training, which goes on from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(Training(self._command, self._log, self._environment))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}


@dataclass
class SubmititBackend:
    """Starts runs as jobs; see `runner.Backend`."""

    plan: Plan
    directory: Path
    cluster: Literal["slurm", "local"]
    slots: int
    """Runs at a time. On SLURM all are submitted at once, and the array runs so many of them."""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """For submitit's executor, such as timeout_min, slurm_partition, gpus_per_node, cpus_per_task."""
    threads: int = 1
    processes: int = 1

    def __post_init__(self) -> None:
        try:
            import submitit
        except ImportError:
            raise UsageError(
                f"--executor {self.cluster if self.cluster == 'slurm' else 'submitit'}: needs the package submitit: "
                "pip install 'unmask[cluster]'"
            ) from None
        self._folder = self.directory / "jobs"
        try:
            self._executor = submitit.AutoExecutor(folder=self._folder, cluster=self.cluster)
            parameters = {"timeout_min": 24 * 60, **self.parameters}
            if self.cluster == "slurm":
                parameters.setdefault("slurm_array_parallelism", self.slots)
            self._executor.update_parameters(**parameters)
        except (RuntimeError, NameError, TypeError) as error:
            raise UsageError(f"--executor {self.cluster}: submitit says: {str(error).splitlines()[0]}") from error

    @property
    def at_once(self) -> int:
        """How many runs the runner hands over before it waits."""
        return self.slots if self.cluster == "local" else 10**6

    @property
    def poll_seconds(self) -> float:
        """A cluster's scheduler and file system are asked less often."""
        return 0.2 if self.cluster == "local" else 2.0

    def start(self, runs: Sequence[tuple[PlannedRun, Path]]) -> list[SubmittedRun]:
        """Submit runs, as one array where there are several; jobs that an earlier runner submitted are taken up."""
        known = self._known()
        handles: dict[str, SubmittedRun] = {}
        fresh: list[tuple[PlannedRun, Path]] = []
        for run, place in runs:
            job = self._job(known.get(run.name))
            if job is not None and not job.done():
                handles[run.name] = SubmittedRun(job, self.cluster)
            else:
                fresh.append((run, place))
        jobs: list[Any] = []
        with self._executor.batch():
            for run, place in fresh:
                command = train_command(self.plan, run, place, processes=self.processes)
                log = self.directory / "logs" / f"{run.name}.log"
                training = Training(command, log.absolute(), {"OMP_NUM_THREADS": str(self.threads)})
                jobs.append(self._executor.submit(training))
        for (run, _), job in zip(fresh, jobs, strict=True):
            known[run.name] = str(job.job_id)
            handles[run.name] = SubmittedRun(job, self.cluster)
        (self._folder / SUBMITTED).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        return [handles[run.name] for run, _ in runs]

    def _known(self) -> dict[str, str]:
        try:
            return cast("dict[str, str]", json.loads((self._folder / SUBMITTED).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def _job(self, job_id: str | None) -> Any:
        """A job of an earlier runner; a local one has died with it."""
        if job_id is None or self.cluster == "local":
            return None
        import submitit

        return submitit.SlurmJob[Any](folder=self._folder, job_id=job_id)


@dataclass
class SubmittedRun:
    """A job; see `runner.Handle`."""

    job: Any
    cluster: str

    def poll(self) -> str | None:
        """None while it runs; then "" if it ended by itself, or why it failed."""
        if not self.job.done():
            return None
        try:
            return str(self.job.result())
        except Exception as error:  # whatever submitit makes of a job that died
            return last_error(str(error))

    def stop(self) -> bool:
        """Ask a local job to save and end. A job of SLURM goes on without its runner, and False says so."""
        if self.cluster != "local":
            return False
        self.job.cancel()
        return True

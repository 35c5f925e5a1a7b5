"""Where independent pieces of work run: on this machine, on a Ray cluster, or on a Slurm cluster."""

from emphasis.executors.base import LOCAL, Executor, ExecutorOptions, Send, Work, WorkerLostError, make_executor

__all__ = ["LOCAL", "Executor", "ExecutorOptions", "Send", "Work", "WorkerLostError", "make_executor"]

"""Independent work: many short tasks, or a few long ones, by one of two engines.

``LocalEngine`` uses processes of this machine. Each command chooses its engine once (``using``); library code only says
what is independent, and gets the same results from either engine.
"""

from asr_kd.parallel.engine import Engine, Handle, LongTasks, Needs, Shared, Workers
from asr_kd.parallel.long_tasks import visible_gpus
from asr_kd.parallel.processes import ThreadWorkers
from asr_kd.parallel.selection import current_engine, long_tasks, parallel_map, parallel_threads, share, using, workers

__all__ = [
    "Engine",
    "Handle",
    "LongTasks",
    "Needs",
    "Shared",
    "ThreadWorkers",
    "Workers",
    "current_engine",
    "long_tasks",
    "parallel_map",
    "parallel_threads",
    "share",
    "using",
    "visible_gpus",
    "workers",
]

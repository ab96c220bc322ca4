"""A step is a list of named, idempotent units that leave a receipt; an executor runs them.

Only this room imports Dask.
"""

from overseg.cluster import limits
from overseg.cluster.executor import Executor, open_executor
from overseg.cluster.held import jobs_for_both

__all__ = ["Executor", "jobs_for_both", "limits", "open_executor"]

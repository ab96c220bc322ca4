"""A step is a list of named, idempotent units that leave a receipt; an executor runs them.

Only this room imports Dask.
"""

from overseg.cluster import limits
from overseg.cluster.executor import Executor, open_executor

__all__ = ["Executor", "limits", "open_executor"]

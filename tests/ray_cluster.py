"""A Ray cluster of two nodes on this machine, one of which can be killed."""

import contextlib
import importlib.util
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Kill = Callable[[], None]
TOKEN = uuid.uuid4().hex  # one for all clusters of this process: Ray reads it once
needs_ray = pytest.mark.skipif(  # not pytest.importorskip: Ray reads RAY_AUTH_MODE when it is imported
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'asr-kd[ray]'"
)


@contextlib.contextmanager
def two_nodes() -> Iterator[Kill]:
    """Nodes of one CPU each, at ``RAY_ADDRESS``; what is yielded kills the one without the driver."""
    settings = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            node = cluster.add_node(num_cpus=1)
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield lambda: node.kill_raylet()
        finally:
            cluster.shutdown()

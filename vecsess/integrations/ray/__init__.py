"""Many machines: one session whose environments live in shards on the nodes of a Ray cluster."""

from vecsess.errors import extra

with extra("ray", needed_by="vecsess.integrations.ray"):
    import ray as _ray  # noqa: F401

from vecsess.integrations.ray.session import RaySession
from vecsess.integrations.ray.slots import ShardHealth, ShardIncident

__all__ = ["RaySession", "ShardHealth", "ShardIncident"]

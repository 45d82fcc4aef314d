"""Config sync under faults and at scale; run by ``benchmarks.soak_sync`` and ``benchmarks.scale_sync``."""

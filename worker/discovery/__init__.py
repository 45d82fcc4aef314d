"""Service discovery: registries that say which nodes an upstream has (upstreams.md section 11)."""

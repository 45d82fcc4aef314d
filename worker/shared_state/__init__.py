"""What workers count and note together, and what outlives them (docs/decisions/0008-shared-counters.md)."""

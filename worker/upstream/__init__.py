"""Upstreams: their peers, the choice among them, and the connections to them."""

"""Measurements of Propylon; README.md tells the method."""

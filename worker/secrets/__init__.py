"""Secrets that are kept outside of the configuration: fetched from their managers, kept, and fetched again."""

"""Plugins: what they are (``base``), which apply to a request (``chain``), where they come from (``loading``)."""

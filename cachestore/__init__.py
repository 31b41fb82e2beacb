"""Stored responses and where they lie: bytes, not HTTP, not text."""

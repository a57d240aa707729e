"""Fallback channels: what a provider is asked and what it answers is pure; `dispatcher` alone does the I/O."""

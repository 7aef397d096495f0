"""Speaks OCI distribution: who may be asked, how often, and what came back."""

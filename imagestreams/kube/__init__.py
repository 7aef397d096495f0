"""Speaks Kubernetes: the only package that knows how an API server is reached."""

"""HTTP in: health and metrics."""

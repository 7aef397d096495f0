"""ImageStreams for any Kubernetes."""

__version__ = "0.1.0"

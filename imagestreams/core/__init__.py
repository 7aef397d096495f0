"""The rules: pure decisions over values. Nothing here waits, reads a clock or opens a socket."""

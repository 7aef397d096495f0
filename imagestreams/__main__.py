"""`python -m imagestreams` is the command `imagestreams`."""

from imagestreams.cli.main import main

main()

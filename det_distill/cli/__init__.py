"""What runs from the command line: each module is one command, of `det-distill` and of a file in ``tools/``.

A command has `parser` (its options), `main` (does it; raises what is wrong) and ``ERRORS`` (what may be wrong with what
a person gave it, told in one line by `run`).
"""

"""The verbs of the console command `hf-moshi-ttt`, one module a verb.

A verb's module has a docstring, which is its help, `add_arguments(parser)` and `run(arguments)`. Everything heavy is
imported inside `run`, so that `--help` and a mistyped option answer at once.
"""

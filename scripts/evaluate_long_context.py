"""Measure the loss by position in long recordings, of a model and its baselines.

The same as `hf-moshi-ttt evaluate`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

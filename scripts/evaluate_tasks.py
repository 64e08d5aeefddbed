"""Measure paired likelihood tasks and the text perplexity of a model; writes tasks.json.

The same as `hf-moshi-ttt tasks`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

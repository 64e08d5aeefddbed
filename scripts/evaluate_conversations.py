"""Let a model continue held-out conversations and measure whether its speech collapses; writes JSON and a picture.

The same as `hf-moshi-ttt conversations`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

"""Draw what the TTT layers' memories do: over the steps of a training run, or over the position in recordings.

The same as `hf-moshi-ttt plot-memory`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

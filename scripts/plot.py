"""Draw the curves of a training run, finished or not: RUN/curves.png and, with TTT layers, RUN/memory.png.

The same as `hf-moshi-ttt plot`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

"""Show whether the memory pays, from nothing: which share of the gap to full attention it closes, rung by rung.

The same as `hf-moshi-ttt prove`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

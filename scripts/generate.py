"""Continue a recording frame by frame from the streaming state and write the continuation as a wav.

The same as `hf-moshi-ttt generate`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

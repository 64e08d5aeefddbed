"""Build the demo's corpus offline: narrated books, human speech and two-channel conversations, with text to train on.

The same as `hf-moshi-ttt make-corpus`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

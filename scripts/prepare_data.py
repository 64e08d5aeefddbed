"""Encode a corpus once to int16 codes on disk; training and evaluation read nothing else.

The same as `hf-moshi-ttt prepare`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

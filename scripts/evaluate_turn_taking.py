"""Measure turn-taking: answers, pauses, interruptions and backchannels; also Full-Duplex-Bench over its whole tree.

The same as `hf-moshi-ttt turn-taking`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

"""Publish a trained model on the Hub, with its code and a card: base, data, settings, losses, long-context slope.

The same as `hf-moshi-ttt push`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

"""Write word times beside stereo conversations, from transcripts (aligned offline) or whisper-timestamped's output.

The same as `hf-moshi-ttt annotate`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

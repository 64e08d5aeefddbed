"""Index a folder of audio: a JSON line a file with its `path`, relative to the index, and `duration` in seconds.

The same as `hf-moshi-ttt index`. Links that lead out of the folder need `--data-dir`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))

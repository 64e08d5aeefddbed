"""The offline corpus: narrated books, human speech and two-channel conversations made from Debian and PyPI packages."""

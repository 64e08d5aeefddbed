"""Whether codes and a model belong to the same codec and text tokenizer, judged by the hashes of both, and whether
codes to measure on are those of the model's training.

Equal numbers of ids say nothing: codes of another codec of the same size are noise to a model, without any error.
"""

from pathlib import Path
from typing import NamedTuple

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..configuration_moshi_ttt import MoshiTTTConfig
from .codes import Provenance
from .text_files import read_json

_RUN_FILE = "run.json"  # that training writes beside its model and its checkpoints
HOLD_OUT = "The numbers say nothing about new recordings: encode some that were held out (hf-moshi-ttt prepare)"
logger = logging.get_logger(__name__)


def require_codes_of_model(
    config: MoshiTTTConfig, provenance: Provenance, source: object, remedy: str = ""
) -> list[str]:
    """Compares where codes come from with what a model was trained on.

    Args:
        source: what the codes are called in errors.
        remedy: what else a caller may do about another codec or tokenizer.

    Returns:
        What cannot be told as a hash is not recorded, a sentence each: of old checkpoints, or old codes.

    Raises:
        ValueError: another number of ids, another codec, or another tokenizer of codes with text.
    """
    if provenance.codebook_size != config.codebook_size:
        raise ValueError(
            f"{source}: encoded by {provenance.codec} with {provenance.codebook_size} ids a codebook, but the model "
            f"has codebook_size={config.codebook_size}."
        )
    codec = _Pair("codec", config.codec, config.codec_sha256, provenance.codec, provenance.codec_sha256)
    pairs = [codec]
    if provenance.text_tokenizer is not None and config.text_tokenizer is not None:
        own, other = config.text_tokenizer_sha256, provenance.tokenizer_sha256
        pairs.append(_Pair("text tokenizer", config.text_tokenizer, own, provenance.text_tokenizer, other))
    for pair in pairs:
        if pair.differs:
            raise ValueError(
                f"{source}: its {pair.what} is {pair.other} (sha256 {str(pair.other_sha256)[:8]}), but the model's is "
                f"{pair.own} (sha256 {str(pair.own_sha256)[:8]}). Encode it with the model's "
                f"(hf-moshi-ttt prepare).{remedy}"
            )
    return [pair.unknown_in(source) for pair in pairs if pair.is_unknown]


def warn_where_unknown(config: MoshiTTTConfig, provenance: Provenance, source: object) -> None:
    """`require_codes_of_model`, with what cannot be told as warnings."""
    for sentence in require_codes_of_model(config, provenance, source):
        logger.warning(f"{sentence}.")


def trained_on(model: str | Path, fingerprint: str, source: object) -> str | None:
    """A sentence where a model was trained on exactly these codes; None where it was not, or where no run tells it.

    Args:
        model: folder of the model or of a checkpoint.
        fingerprint: as `data_fingerprint` gives it.
        source: what the codes are called.

    Raises:
        ValueError: a run.json that is no JSON.
    """
    folder = Path(model)
    run = (folder.parent if folder.name.startswith(PREFIX_CHECKPOINT_DIR) else folder) / _RUN_FILE
    found = read_json(run) if run.is_file() else None
    data = found.get("data") if isinstance(found, dict) else None
    if not isinstance(data, dict) or data.get("fingerprint") != fingerprint:
        return None
    return f"{source} are the recordings that {model} was trained on"


def warn_where_trained_on(model: str | Path, fingerprint: str, source: object) -> None:
    """`trained_on` as a warning."""
    if (sentence := trained_on(model, fingerprint, source)) is not None:
        logger.warning(f"{sentence}. {HOLD_OUT}.")


class _Pair(NamedTuple):
    """A codec or tokenizer of a model (`own`) and of codes (`other`)."""

    what: str
    own: str
    own_sha256: str | None
    other: str
    other_sha256: str | None

    @property
    def is_unknown(self) -> bool:
        return self.own_sha256 is None or self.other_sha256 is None

    @property
    def differs(self) -> bool:
        return not self.is_unknown and self.own_sha256 != self.other_sha256

    def unknown_in(self, source: object) -> str:
        whose = "the model" if self.own_sha256 is None else f"{source}"
        return (
            f"Whether {source} has the model's {self.what} is not known, {whose} does not record its hash; the names "
            f"are {self.other} and {self.own}"
        )

"""Encoded recordings as material for recall tasks: their first codebooks, the ids of each grouped into fewer ones.

A small model trained for minutes learns the successors of 64 ids, not of 2,048. So ids whose centroids lie close
together become one id: k-means over the codec's own table of a codebook, which hears nothing of the recordings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ..codec.log_mel_codec import LogMelCodecModel
from ..codec.pretrained_codec import codec_sha256, load_codec
from ..data.codes import NUM_CODEBOOKS, load_codes, recordings_of, require_same_codec
from ..data.spoken_lines import load_spoken_lines
from ..memory.line_tasks import SaidRecording


def load_recordings(codes: str, num_ids: int, codec: str | None = None, num_codebooks: int = 1) -> list[Tensor]:
    """The first codebooks of every recording, `[Q, T]` each, in `num_ids` ids.

    Args:
        codes: folder of encoded recordings, mono `[8, T]` or of all streams `[17, T]`; then Moshi's voice is taken.
        num_ids: the codec's own number of ids for no grouping.
        codec: name or path of the codec that made the codes; as their provenance names it, if None.
        num_codebooks: Q, from 1 to 8.

    Raises:
        ValueError: no codes there, more ids or codebooks than there are, another codec than the one that made them, or
            one whose tables are not known.
    """
    rows, provenance = load_codes(codes)
    require_ids(codes, num_ids, provenance.codebook_size)
    every = [torch.as_tensor(row["codes"]).long() for row in rows]
    own = [codes_KT if len(codes_KT) == NUM_CODEBOOKS else codes_KT[1 : NUM_CODEBOOKS + 1] for codes_KT in every]
    first = [first_codebooks(codes_QT, num_codebooks) for codes_QT in own]
    if num_ids == provenance.codebook_size:
        return first
    loaded = load_codec(codec or provenance.codec)
    if provenance.codec_sha256 not in (None, codec_sha256(loaded)):
        raise ValueError(f"{codes} was made with a codec of other weights than {codec or provenance.codec!r} has now.")
    groups_QV = grouped_tables(loaded, num_ids, num_codebooks)
    return [in_groups(codes_QT, groups_QV) for codes_QT in first]


def require_ids(source: str, num_ids: int, codebook_size: int) -> None:
    """Refuses a number of groups that the ids of `source` cannot be put in.

    Raises:
        ValueError: less than 2, or more than ids.
    """
    if not 2 <= num_ids <= codebook_size:
        raise ValueError(f"num_ids={num_ids}, but {source} has {codebook_size} ids: give 2 to that many.")


def first_codebooks(codes_QT: Tensor, num_codebooks: int) -> Tensor:
    """The first of all codebooks of a voice.

    Raises:
        ValueError: less than 1, or more than there are.
    """
    if not 1 <= num_codebooks <= len(codes_QT):
        raise ValueError(f"num_codebooks={num_codebooks}, but there are {len(codes_QT)}: give 1 to that many.")
    return codes_QT[:num_codebooks]


def grouped_tables(codec: Any, num_ids: int, num_codebooks: int) -> Tensor:
    """The group of each id of the first codebooks, `[Q, V]`."""
    return torch.stack([group_ids(centroids(codec, codebook), num_ids) for codebook in range(num_codebooks)])


def in_groups(codes_QT: Tensor, groups_QV: Tensor) -> Tensor:
    """The groups `[Q, T]` of codes."""
    return groups_QV.gather(1, codes_QT)


def require_apart(train_codes: str, test_codes: str) -> None:
    """Refuses held-out codes that are trained on, or that another codec made.

    Raises:
        ValueError: both are the same folder, hold the same recording, or come from different codecs.
    """
    (train, train_origin), (test, test_origin) = load_codes(train_codes), load_codes(test_codes)
    require_same_codec(train_codes, train_origin, test_codes, test_origin)
    common = recordings_of(train) & recordings_of(test)
    if common or Path(train_codes).resolve() == Path(test_codes).resolve():
        what = f"hold {len(common)} recordings in common" if common else "are one"
        raise ValueError(f"train_codes={train_codes!r} and test_codes={test_codes!r} {what}: hold others out.")


def load_said(codes: str, recordings: Sequence[Tensor]) -> list[SaidRecording]:
    """What is said in recordings that `load_recordings` loaded from the same folder.

    Raises:
        ValueError: as `load_spoken_lines` says.
    """
    lines = load_spoken_lines(codes)
    return [
        SaidRecording(codes_QT, each.saying_T, each.text_of_saying)
        for codes_QT, each in zip(recordings, lines, strict=True)
    ]


def load_speakers(codes: str) -> list[str]:
    """The speaker of each recording that `load_recordings` loads, "" where the codes do not say."""
    rows, _ = load_codes(codes)
    if "speaker" not in rows.column_names:
        return [""] * len(rows)
    return [speaker or "" for speaker in rows["speaker"][:]]


def group_ids(centroids_VD: Tensor, num_ids: int) -> Tensor:
    """The group from 0 to `num_ids` - 1 of each id, `[V]`."""
    grouped = KMeans(num_ids, n_init=1, random_state=0).fit(centroids_VD.float().numpy())
    return torch.as_tensor(grouped.labels_).long()


def centroids(codec: Any, codebook: int = 0) -> Tensor:
    """The table of a codebook, `[V, D]`.

    Raises:
        ValueError: neither Mimi nor our own codec.
    """
    if isinstance(codec, LogMelCodecModel):
        return codec.codebooks[codebook]
    if codec.config.model_type == "mimi":
        semantic = codec.quantizer.semantic_residual_vector_quantizer.layers
        acoustic = codec.quantizer.acoustic_residual_vector_quantizer.layers
        return [*semantic, *acoustic][codebook].codebook.embed.detach()
    raise ValueError(
        f"A codec of type {codec.config.model_type!r}, but the known tables are those of mimi and log_mel_codec."
    )

"""Both forms of a recording are grouped as the codes are that models are trained on."""

from pathlib import Path

import pytest
import soundfile
import torch

from hf_moshi_ttt.codec.log_mel_codec import LogMelCodecModel
from hf_moshi_ttt.data.variants import ORIGINAL, load_variants, make_variants
from hf_moshi_ttt.training.recall_speech import centroids, group_ids
from hf_moshi_ttt.training.recall_variants import load_renderings, with_all_forms

from ..conftest import chirps_S


@pytest.fixture(scope="module")
def variants(codec_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    soundfile.write(folder / "a.wav", chirps_S(10.0, 0), 24_000)
    make_variants([folder / "a.wav"], codec_path, folder / "variants.safetensors", ["same", "rate_0.9"])
    return folder / "variants.safetensors"


def test_ids_are_those_of_the_codec_or_their_groups(variants: Path, codec_path: str) -> None:
    codes, _ = load_variants(variants)
    whole, coarse = load_renderings(str(variants), 32), load_renderings(str(variants), 5)
    groups = group_ids(centroids(LogMelCodecModel.from_pretrained(codec_path)), 5)
    for name in ("same", "rate_0.9"):
        recording, (form,) = whole[name][0], whole[name][0].forms
        assert torch.equal(recording.codes_QT, codes[ORIGINAL][0][:1].long())
        assert torch.equal(form.codes_QT, codes[name][0][:1].long())
        assert torch.equal(coarse[name][0].forms[0].codes_QT, groups[form.codes_QT])
        (both,) = load_renderings(str(variants), 5, num_codebooks=2)[name]
        assert both.codes_QT.shape == (2, recording.codes_QT.shape[1])
        assert torch.equal(both.forms[0].codes_QT[:1], coarse[name][0].forms[0].codes_QT)
    assert whole["rate_0.9"][0].forms[0].frame_of(90) == 100
    (joined,) = with_all_forms(whole)
    assert [form.frame_of(90) for form in joined.forms] == [90, 100]
    assert torch.equal(joined.codes_QT, whole["same"][0].codes_QT)


def test_other_numbers_and_codecs_are_refused(variants: Path, mimi_path: str) -> None:
    with pytest.raises(ValueError, match="num_ids=64, but .* has 32 ids"):
        load_renderings(str(variants), 64)
    with pytest.raises(ValueError, match="a codec of other weights than"):
        load_renderings(str(variants), 5, mimi_path)

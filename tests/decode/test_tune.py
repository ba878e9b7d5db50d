import dataclasses
import json
from pathlib import Path

import pytest

from asr_kd.corpus.datadir import read_data_dir
from asr_kd.decode import tune
from asr_kd.decode.model_folder import Model, load_model_folder
from asr_kd.decode.sources import datadir_sources
from asr_kd.decode.tune_search import choose
from asr_kd.errors import UserError
from tests.killing import Killed, killed_at

EDGE = ("acoustic_scale", "word_penalty")


@pytest.mark.parametrize("name", ["write_text", "save_config"])
def test_tuning_that_was_killed_leaves_a_model_that_works_and_the_rerun_tunes_it(
    model: Model, datadir: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_data_dir(datadir)
    sources = datadir_sources(data, model.config.features)
    with monkeypatch.context() as patch:
        patch.setattr(tune, name, killed_at(getattr(tune, name), 1))
        with pytest.raises(Killed):
            tune.tune(model, sources, data.text, "dev")
    assert load_model_folder(model.path).config == model.config
    best = tune.tune(model, sources, data.text, "dev").best
    assert load_model_folder(model.path).config.search.word_penalty == best.word_penalty


def test_silent_utterances_count_the_words_inserted(model: Model, datadir: Path) -> None:
    data = read_data_dir(datadir)
    sources = datadir_sources(data, model.config.features)
    best = tune.tune(model, sources, {**data.text, "u1": ()}, "dev").best
    assert best.words == sum(len(words) for words in data.text.values()) - 1
    assert tune._word_errors((), ("GO", "NO")) == 2
    assert tune._word_errors((), ()) == 0
    assert tune._word_errors(("GO",), ()) == 1


def test_only_silence_cannot_be_tuned_on(model: Model, datadir: Path) -> None:
    sources = datadir_sources(read_data_dir(datadir), model.config.features)
    with pytest.raises(UserError, match="the transcripts of all 3 utterances are empty"):
        tune.tune(model, sources, {"u1": (), "u2": (), "u3": ()}, "dev")
    with pytest.raises(UserError, match=r"no transcript of 'u2' to tune on; 1 of 3"):
        tune.tune(model, sources, {"u1": ("GO",), "u3": ()}, "dev")


def test_options_at_the_edge_are_named_in_the_model_and_in_tune_json(
    model: Model, datadir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "choose", lambda *given: dataclasses.replace(choose(*given), at_edge=EDGE))
    data = read_data_dir(datadir)
    tune.tune(model, datadir_sources(data, model.config.features), data.text, "dev (3 utterances)")
    said = "dev (3 utterances), at the edge of the searched range: acoustic scale, word penalty"
    stored = json.loads((model.path / "tune.json").read_text())
    assert stored["tuned_on"] == load_model_folder(model.path).config.tuned_on == said
    assert (stored["at_edge"], stored["limited_by_max_active"]) == (list(EDGE), False)
    assert stored["max_active"] == model.config.search.max_active

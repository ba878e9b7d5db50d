"""Sizes of models for an amount of speech."""

from asr_kd.experiment.sizes import feature_settings, hmm_sizes, network_sizes


def test_sizes_agree_with_the_recipes_that_were_tuned() -> None:
    an4, libri = hmm_sizes(0.7), hmm_sizes(5.3)
    assert 450 <= an4["lda_states"] <= 550
    assert an4["lda_gaussians"] == 6 * an4["lda_states"]
    assert 1200 <= libri["lda_states"] <= 1500
    assert network_sizes(0.7, 4)["epochs"] == 12
    assert network_sizes(5.3, 2)["epochs"] in (5, 6)
    assert network_sizes(5.3, 2)["width"] == 320


def test_sizes_grow_with_the_speech_within_bounds() -> None:
    hours = [0.001, 0.1, 1, 10, 100, 1000, 100000]
    states = [hmm_sizes(each)["tri_states"] for each in hours]
    epochs = [network_sizes(each, 2)["epochs"] for each in hours]
    assert states == sorted(states)
    assert (states[0], states[-1]) == (60, 8000)
    assert epochs == sorted(epochs, reverse=True)
    assert (epochs[0], epochs[-1]) == (15, 2)


def test_telephone_speech_keeps_its_rate_unless_other_audio_has_more() -> None:
    assert feature_settings({8000}) == {"sample_rate": 8000}
    assert feature_settings({8000, 16000}) == {}
    assert feature_settings({44100}) == {}

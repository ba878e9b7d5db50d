"""State spaces and lexicons as files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from asr_kd.errors import UserError
from asr_kd.hmm.lexicon import Lexicon, with_unknown
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.topology import monophone_space

LEXICON = Lexicon({"go": (("G", "OW"),), "oh": (("OW",), ("AO",))})


def test_monophones_have_chains_of_their_own_whatever_their_neighbours() -> None:
    space = monophone_space(with_unknown(LEXICON), phone_positions=3, silence_positions=4)
    assert space.phones == ("SIL", "AO", "G", "OW", "SPN")
    assert space.silence == ("SIL", "SPN")
    assert [space.chain(phone) for phone in space.phones] == [
        [0, 1, 2, 3],
        [4, 5, 6],
        [7, 8, 9],
        [10, 11, 12],
        [13, 14, 15, 16],
    ]
    assert not space.is_context_dependent
    assert space.chain("G", "OW", "AO") == space.chain("G")
    np.testing.assert_allclose(np.exp(space.log_loop) + np.exp(space.log_next), 1, rtol=1e-6)


def test_a_saved_space_is_the_same_space(tmp_path: Path) -> None:
    space = monophone_space(LEXICON)
    space.save(tmp_path)
    loaded = StateSpace.load(tmp_path)
    assert (loaded.phones, loaded.silence) == (space.phones, space.silence)
    for name in ("lengths", "table", "log_loop"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(space, name))


def test_a_missing_or_foreign_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not an HMM folder \(no states\.yaml\)"):
        StateSpace.load(tmp_path)
    monophone_space(LEXICON).save(tmp_path / "one")
    monophone_space(Lexicon({"a": (("A",),)})).save(tmp_path / "other")
    (tmp_path / "one" / "states.safetensors").write_bytes((tmp_path / "other" / "states.safetensors").read_bytes())
    with pytest.raises(UserError, match="does not fit the 4 phones"):
        StateSpace.load(tmp_path / "one")
    (tmp_path / "one" / "states.safetensors").unlink()
    with pytest.raises(UserError, match=r"states\.safetensors: no such file"):
        StateSpace.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("lengths", lambda x: x[:-1], "lengths"),
        ("lengths", lambda x: x + 9, "the table has"),
        ("lengths", lambda x: x * 0, "has 0 to 0 states"),
        ("lengths", lambda x: x.astype(np.float32), "numbers are float32"),
        ("table", lambda x: x - 1, "states from -1"),
        ("table", lambda x: x + 1, "there are 14"),
        ("table", lambda x: x.reshape(-1), "table"),
        ("table", lambda x: x[:, :, :-1], "table"),
        ("log_loop", lambda x: x[:-1], "there are 13"),
        ("log_loop", lambda x: x * np.nan, "no probability"),
        ("log_loop", lambda x: -x, "no probability"),
        ("log_loop", lambda x: x[:, None], "loops"),
    ],
)
def test_numbers_that_would_lead_outside_an_array_are_refused(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    monophone_space(LEXICON).save(tmp_path)
    tensors = load_file(tmp_path / "states.safetensors")
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, tmp_path / "states.safetensors")
    with pytest.raises(UserError, match=rf"states\.safetensors: .*{message}"):
        StateSpace.load(tmp_path)


def test_names_that_do_not_fit_the_numbers_are_refused(tmp_path: Path) -> None:
    monophone_space(LEXICON).save(tmp_path)
    text = (tmp_path / "states.yaml").read_text()
    for bad in (
        text.replace("silence:\n- SIL", "silence:\n- XX"),
        text.replace("- OW", "- G"),
        "phones: []\nsilence: []\n",
    ):
        (tmp_path / "states.yaml").write_text(bad)
        with pytest.raises(UserError, match="does not fit"):
            StateSpace.load(tmp_path)


def test_more_phones_than_the_table_of_states_can_have_are_refused_before_it_is_made() -> None:
    lexicon = Lexicon({f"w{number}": ((f"P{number}",),) for number in range(511)})
    with pytest.raises(UserError, match="the lexicon: 512 phones; at most 511"):
        monophone_space(lexicon)

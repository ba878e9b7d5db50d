"""State spaces and lexicons as files."""

from pathlib import Path

import numpy as np
import pytest

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
    with pytest.raises(UserError, match=r"states\.yaml: no such file"):
        StateSpace.load(tmp_path)
    monophone_space(LEXICON).save(tmp_path / "one")
    monophone_space(Lexicon({"a": (("A",),)})).save(tmp_path / "other")
    (tmp_path / "one" / "states.safetensors").write_bytes((tmp_path / "other" / "states.safetensors").read_bytes())
    with pytest.raises(UserError, match="does not fit the 4 phones"):
        StateSpace.load(tmp_path / "one")
    (tmp_path / "one" / "states.safetensors").unlink()
    with pytest.raises(UserError, match=r"states\.safetensors: no such file"):
        StateSpace.load(tmp_path / "one")

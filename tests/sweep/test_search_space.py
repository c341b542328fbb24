"""The file of a space: what varies, and what is refused."""

import pytest

from wbdc.core.errors import UsageFault
from wbdc.sweep.search_space import Choices, NumberRange, first_changes, read_space, trial_changes


def space(tmp_path, text):
    path = tmp_path / "space.toml"
    path.write_text(text)
    return read_space(path)


class LastOf:
    """A trial that takes the last choice, the highest integer, and the lowest number."""

    def suggest_categorical(self, name, choices):
        return choices[-1]

    def suggest_int(self, name, low, high, *, step, log):
        return high - (high - low) % step

    def suggest_float(self, name, low, high, *, step, log):
        return low


def test_a_space_names_settings_as_a_kit_does(tmp_path):
    read = space(
        tmp_path,
        """
        [train]
        epochs = { low = 10, high = 31, step = 10 }
        learning_rate.rest = { low = 1e-4, high = 1e-2, log = true }
        trick = [[], [{ use = "ema", decay = 0.99 }]]
        [fusion]
        dropout = { low = 0.0, high = 0.5 }
        """,
    )
    assert read["train.learning_rate.rest"] == NumberRange(1e-4, 1e-2, log=True)
    assert isinstance(read["train.trick"], Choices)
    assert trial_changes(read, LastOf()) == (
        "train.epochs=30",
        "train.learning_rate.rest=0.0001",
        'train.trick=[{ "use" = "ema", "decay" = 0.99 }]',
        "fusion.dropout=0.0",
    )
    assert first_changes(read)[2] == "train.trick=[]"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "names no setting"),
        ("[train", "not valid TOML"),
        ("train.epochs = 3", "does not vary"),
        ("train.epochs = [3]", "has 1 value"),
        ("train.epochs = [3, 3]", "has 1 value"),
        ("train.epochs = { low = 3, high = 3 }", "low < high"),
        ("train.epochs = { low = 3 }", "low < high"),
        ("train.epochs = { low = 'a', high = 3 }", "low < high"),
        ("train.epochs = { low = nan, high = 3.0 }", "low < high"),
        ("train.epochs = { low = 0.0, high = 1.0, log = true }", "low > 0"),
        ("train.epochs = { low = 1, high = 2, log = 1 }", "true or false"),
        ("train.epochs = { low = 1, high = 9, step = 0 }", "step must be"),
        ("train.epochs = { low = 1, high = 9, steps = 2 }", "'steps'"),
    ],
)
def test_a_space_that_is_not_valid_is_refused(tmp_path, text, match):
    with pytest.raises(UsageFault, match=match):
        space(tmp_path, text)


def test_values_after_steps_are_short():
    class ThreeSteps:
        def suggest_float(self, name, low, high, *, step, log):
            return low + 3 * step

    assert NumberRange(0.0, 0.5, step=0.1).suggest("fusion.dropout", ThreeSteps()) == "0.3"

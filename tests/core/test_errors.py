"""Errors: exit codes, and suggestions for unknown names."""

from wbdc.core.errors import WbdcError, suggest_name


def test_only_a_close_name_is_suggested():
    assert suggest_name("trian", ["train", "prepare"]) == "; did you mean 'train'?"
    assert suggest_name("report", ["train", "prepare"]) == "; it may be one of: train, prepare"


def test_without_allowed_names_the_sentence_states_it():
    assert suggest_name("x", []) == "; there are none"


def test_every_error_has_its_own_exit_code():
    error_classes = WbdcError.__subclasses__()
    assert sorted(c.code for c in error_classes) == list(range(2, 13))
    assert all(c.__doc__ for c in error_classes)

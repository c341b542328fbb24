"""Sentences about unknown names suggest a close one, or list all."""

from wbdc.core.errors import suggest_name


def test_only_a_close_name_is_suggested():
    assert suggest_name("trian", ["train", "prepare"]) == "; did you mean 'train'?"
    assert suggest_name("report", ["train", "prepare"]) == "; it may be one of: train, prepare"


def test_when_nothing_can_be_named_the_sentence_says_so():
    assert suggest_name("x", []) == "; there are none"

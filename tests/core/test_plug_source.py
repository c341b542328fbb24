"""The settings of plugs that are read from their files are those of the imported classes."""

from importlib import import_module
from typing import get_args

import pytest

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.plug_source import (
    PACKAGED_KIT_FOLDERS,
    find_source,
    import_source,
    nested_tables,
    plug_attribute,
    resolve_settings,
)
from wbdc.serve.member_files import MEMBERS_PACKAGE
from wbdc.train.kit_schema import PLUG_PACKAGES


@pytest.mark.parametrize("package", PLUG_PACKAGES.values())
def test_every_plug_is_read_as_it_is_imported(package):
    uses = plug.plug_names(import_module(package))
    assert uses
    for use in uses:
        source = find_source(package, use)
        imported = import_source(package, use)
        assert (source.kind, source.description) == (imported.kind, imported.description), use
        settings = plug.plug_settings(source.constructor)
        expected = plug.plug_settings(imported.constructor)
        assert list(settings) == list(expected), use
        for name, parameter in expected.items():
            assert settings[name].default == parameter.default, (use, name)
            annotation = settings[name].annotation
            nested = plug.nested_package_name(parameter.annotation)
            assert plug.nested_package_name(annotation) == nested, (use, name)
            if nested:
                plain = get_args(annotation)[0] == get_args(parameter.annotation)[0]
                assert plain, (use, name)
            else:
                assert annotation == parameter.annotation, (use, name)


@pytest.mark.parametrize(
    ("package", "name"),
    [
        (PLUG_PACKAGES["objective"], "needs_labels"),
        (PLUG_PACKAGES["objective"], "needs_pixels"),
        (PLUG_PACKAGES["objective"], "reads_pseudo_labels"),
        (PLUG_PACKAGES["sampler"], "needs_labels"),
        (PLUG_PACKAGES["trick"], "needs_pixels"),
        (PLUG_PACKAGES["vision"], "adds_random_layers"),
        (MEMBERS_PACKAGE, "is_network"),
    ],
)
def test_every_class_attribute_is_read_as_it_is_imported(package, name):
    home = import_module(package)
    imported = {use: getattr(plug.find_plug(home, use), name) for use in plug.plug_names(home)}
    assert {use: plug_attribute(package, use, name) for use in imported} == imported
    assert {*imported.values()} == {True, False}


def test_a_plug_beside_a_packaged_kit_is_read_as_it_is_imported():
    host = (PLUG_PACKAGES["trick"], "./few_frames.py", PACKAGED_KIT_FOLDERS[0] / "wbdc2022/rank1")
    source = find_source(*host)
    imported = import_source(*host)
    assert (source.kind, source.description) == (imported.kind, imported.description)
    settings = plug.plug_settings(imported.constructor)
    assert plug.plug_settings(source.constructor).keys() == settings.keys() == {"frames", "share"}
    assert plug_attribute(host[0], host[1], "needs_pixels", host[2]) is False


def test_an_attribute_that_is_not_set_is_no_attribute():
    with pytest.raises(AttributeError, match="classify.py and its contract do not set needs_pixel"):
        plug_attribute(PLUG_PACKAGES["objective"], "classify", "needs_pixel")


def test_a_table_is_resolved_as_by_an_import():
    table = {"use": "classify", "loss": {"use": "two_level", "loss": "focal"}, "dropout": 0.1}
    objectives = PLUG_PACKAGES["objective"]
    expected = plug.resolve_plug(import_module(objectives), table)[1]
    assert resolve_settings(objectives, table) == expected
    assert expected["loss"]["loss"] == {"use": "focal"}
    ((package, inner),) = nested_tables(find_source(objectives, "classify"), table).values()
    assert (package, inner) == (PLUG_PACKAGES["loss"], table["loss"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"use": "clasify"}, "no objective called 'clasify'; did you mean 'classify'"),
        ({"use": "classify", "dropuot": 0.1}, "has no setting 'dropuot'; did you mean 'dropout'"),
        ({"use": "classify", "dropout": "x"}, "dropout = 'x' is not of the type float"),
        ({"use": "classify", "smoothing": 0.1}, "write loss = { use = "),
        ({"use": "classify", "loss": {"use": "focal", "gama": 1}}, "did you mean 'gamma'"),
        ({"use": "pseudo_labels", "temperature": True}, "is not of the type float"),
        ({}, "objective needs `use = ...`"),
        ({"use": "./missing.py"}, "no objective at"),
    ],
)
def test_what_an_import_refuses_is_refused_with_the_same_sentence(table, message):
    objectives = PLUG_PACKAGES["objective"]
    with pytest.raises(UsageFault) as imported:
        plug.resolve_plug(import_module(objectives), table)
    with pytest.raises(UsageFault) as read:
        resolve_settings(objectives, table)
    assert str(read.value) == str(imported.value)
    assert message in str(read.value)


def test_a_plug_beside_a_kit_is_imported(tmp_path):
    (tmp_path / "half.py").write_text(
        '"""Half."""\n\nfrom wbdc.train.schedules import Schedule\n\n\n'
        "class Half(Schedule):\n    def __init__(self, *, floor: float = 0.5):\n        pass\n"
    )
    schedules = PLUG_PACKAGES["schedule"]
    table = {"use": "./half.py", "floor": 0.25}
    assert find_source(schedules, "./half.py", tmp_path) is None
    assert resolve_settings(schedules, table, tmp_path) == {"floor": 0.25}
    assert import_source(schedules, "./half.py", tmp_path).description == "Half."
    with pytest.raises(UsageFault, match="has no setting 'flor'; did you mean 'floor'"):
        resolve_settings(schedules, {"use": "./half.py", "flor": 0.25}, tmp_path)

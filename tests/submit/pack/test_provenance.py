"""The origin of pretrained weights: from the record of a fold to a table in the README."""

import pytest

from wbdc.core.errors import IntegrityFault
from wbdc.submit.pack.provenance import UNKNOWN_LICENSE, provenance_table, weights_provenance

MACBERT = {
    "name": "hfl/chinese-macbert-base",
    "file": "model.safetensors",
    "bytes": 409_103_316,
    "md5": "a" * 32,
    "sha256": "b" * 64,
}
CLIP = {
    "name": "timm/vit_base_patch32_clip_224.openai",
    "file": "open_clip_model.safetensors",
    "bytes": 605_143_316,
    "md5": "c" * 32,
    "sha256": "d" * 64,
}
NOT_PRETRAINED = {
    "trunk": "random weights, as the kit asks; words learned from the data",
    "vision": "none: the data brings features",
    "start": "pre-1f: takes 9 tensors, leaves x",
}


def test_a_record_becomes_an_entry_with_link_license_and_checksums():
    assert weights_provenance({"vision": CLIP, "trunk": MACBERT}) == [
        {
            **MACBERT,
            "link": "https://huggingface.co/hfl/chinese-macbert-base",
            "license": "apache-2.0",
        },
        {
            **CLIP,
            "link": "https://huggingface.co/timm/vit_base_patch32_clip_224.openai",
            "license": "apache-2.0",
        },
    ]


def test_random_weights_and_own_runs_are_not_listed():
    assert (
        weights_provenance(NOT_PRETRAINED)
        == weights_provenance({"vision": "random weights"})
        == weights_provenance({})
        == []
    )
    assert len(weights_provenance({**NOT_PRETRAINED, "trunk": MACBERT})) == 1


def test_a_recorded_license_wins_over_the_known_ones():
    assert (
        weights_provenance({"trunk": {**MACBERT, "name": "some/body"}})[0]["license"]
        == UNKNOWN_LICENSE
    )
    assert (
        weights_provenance({"trunk": {**MACBERT, "name": "some/body", "license": "mit"}})[0][
            "license"
        ]
        == "mit"
    )


def test_a_name_outside_the_hub_has_no_link():
    assert weights_provenance({"vision": {**CLIP, "name": "ViT-B-32-own"}})[0]["link"] is None


@pytest.mark.parametrize(
    ("words", "name", "link"),
    [
        (
            "hfl/chinese-macbert-base from /w/hfl: leaves pooler",
            "hfl/chinese-macbert-base",
            "https://huggingface.co/hfl/chinese-macbert-base",
        ),
        (
            "ViT-B-32 openai from /w/open_clip_model.safetensors: takes 9 tensors",
            "ViT-B-32 openai",
            None,
        ),
        ("what a tower of one's own said", "what a tower of one's own said", None),
    ],
)
def test_descriptions_of_older_folds_give_the_name_alone(words, name, link):
    (entry,) = weights_provenance({"trunk": words})
    assert (entry["name"], entry["link"], entry["md5"], entry["sha256"], entry["bytes"]) == (
        name,
        link,
        None,
        None,
        None,
    )
    assert provenance_table([entry]).count("not recorded") == 4


@pytest.mark.parametrize("key", ["name", "file", "bytes", "md5", "sha256"])
def test_an_incomplete_record_is_refused(key):
    with pytest.raises(IntegrityFault, match=f"weights of trunk lacks {key}"):
        weights_provenance({"trunk": {k: v for k, v in MACBERT.items() if k != key}})


def test_the_table_lists_each_file_once_in_a_fixed_order():
    one, two = (
        weights_provenance({"trunk": MACBERT}),
        weights_provenance({"vision": CLIP, "trunk": MACBERT}),
    )
    text = provenance_table(one + two)
    assert text == provenance_table(two + one)
    assert weights_provenance({"trunk": MACBERT, "vision": MACBERT}) == one
    hub = "https://huggingface.co"
    assert text.splitlines()[2:] == [
        f"| [hfl/chinese-macbert-base]({hub}/hfl/chinese-macbert-base) | model.safetensors "
        f"| 409,103,316 | apache-2.0 | {'a' * 32} | {'b' * 64} |",
        f"| [{CLIP['name']}]({hub}/{CLIP['name']}) | open_clip_model.safetensors "
        f"| 605,143,316 | apache-2.0 | {'c' * 32} | {'d' * 64} |",
    ]


def test_two_files_with_one_name_are_two_rows():
    other = {**MACBERT, "sha256": "e" * 64}
    assert (
        len(provenance_table(weights_provenance({"trunk": MACBERT, "vision": other})).splitlines())
        == 4
    )


def test_a_bar_in_a_cell_and_an_empty_table():
    assert (
        provenance_table(weights_provenance({"trunk": {**MACBERT, "license": "mit | apache-2.0"}}))
        .splitlines()[2]
        .count(" | ")
        == 5
    )
    assert provenance_table([]).startswith("No pretrained weights")

"""Files of speech tokens: text for each video, which may be damaged or hostile."""

import hashlib
import os

import numpy as np
import pytest
import torch

from wbdc.competitions import NO_FRAMES, Source
from wbdc.core.findings import Findings
from wbdc.core.modality_limit import MAX_STEPS
from wbdc.core.token_hashes import hash_token, join_bytes
from wbdc.data import token_files
from wbdc.data.token_files import read_tokens


def read(path, content: bytes | None) -> tuple[list[int], dict]:
    """Write a file and read it; return the hashes of its tokens and the findings."""
    if content is not None:
        path.write_bytes(content)
    findings = Findings()
    rows = read_tokens(Source(path), findings)
    assert (rows.dtype, rows.shape[1]) == (np.float16, 4)
    return join_bytes(torch.from_numpy(rows)).tolist(), findings.report()


def longhand_hash(token: str) -> int:
    digest = hashlib.blake2b(token.encode(), digest_size=4).digest()
    return digest[0] // 2 * 2**24 + int.from_bytes(digest[1:], "big")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "v.txt"


def test_tokens_are_separated_by_white_space(path):
    content = "\ufeff17 你好\u3000hello\n\t17 ".encode()
    expected = [longhand_hash(token) for token in ("17", "你好", "hello", "17")]
    assert read(path, content) == (expected, {})


def test_hashes_stay_the_same_and_fit_all_number_formats():
    assert hash_token("hello") == (117, 103, 6, 247)
    rows = torch.tensor([hash_token(str(i)) for i in range(2000)])
    assert 250 < rows.max() < 256
    assert rows[:, 0].max() < 128, "31 bits, since OpenVINO computes in int32"
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(rows.to(dtype).long(), rows)


def test_of_many_tokens_some_are_sampled_by_position(path):
    hashes, _ = read(path, " ".join(map(str, range(4 * MAX_STEPS))).encode())
    assert hashes == [longhand_hash(str(4 * i + 2)) for i in range(MAX_STEPS)]


@pytest.mark.parametrize("content", [b"", b" \n\t", None])
def test_a_file_without_tokens_and_a_missing_one_are_not_damage(path, content):
    assert read(path, content) == ([], {})
    findings = Findings()
    assert read_tokens(NO_FRAMES, findings).shape == (0, 4)
    assert findings.report() == {}


def test_files_that_are_not_text_are_counted(path, tmp_path, monkeypatch):
    hashes, findings = read(path, b"hello \xff\xfe")
    assert (hashes, list(findings)) == ([], ["modality.broken"])
    assert "/v.txt: 'utf-8' codec" in findings["modality.broken"]["places"][0]
    os.mkfifo(tmp_path / "pipe.txt")
    assert list(read(tmp_path / "pipe.txt", None)[1]) == ["modality.broken"]
    monkeypatch.setattr(token_files, "MAX_TOKEN_BYTES", 4)
    assert list(read(path, b"hello")[1]) == ["modality.huge"]

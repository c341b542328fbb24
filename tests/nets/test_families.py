"""Text models of every family as the trunk: they equal those of transformers, keep masks, and have
one set of names.
"""

from dataclasses import replace

import pytest
import torch
import toys
from fake_cuda import batch_on_fake_cuda, fake_cuda, model_on_fake_cuda
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens, causal_mask
from wbdc.nets.model import VideoClassifier, build_model
from wbdc.nets.model_types import MODEL_TYPES
from wbdc.nets.trunk import (
    FAMILIES,
    Trunk,
    find_trunk,
    initialize_words,
    load_trunk,
    read_architecture,
)
from wbdc.train.layer_decay import layer_numbers
from wbdc.train.repeated_layers import repeated_layers

ROBERTA = {**toys.BERT_CONFIG, "pad_token_id": 1, "type_vocab_size": 1}
DEBERTA = {
    **toys.BERT_CONFIG,
    "model_type": "deberta-v2",
    "type_vocab_size": 0,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
XLNET = {
    "model_type": "xlnet",
    "vocab_size": toys.WORDS,
    "d_model": 16,
    "n_layer": 2,
    "n_head": 2,
    "d_inner": 32,
    "dropout": 0.0,
}
# {name: config.json}, one or more of each model type
ARCHITECTURES = {
    "bert": {**toys.BERT_CONFIG, "model_type": "bert"},
    "electra": {**toys.BERT_CONFIG, "model_type": "electra", "embedding_size": 8},
    "ernie": {**toys.BERT_CONFIG, "model_type": "ernie"},
    "roberta": {**ROBERTA, "model_type": "roberta"},
    "xlm-roberta": {**ROBERTA, "model_type": "xlm-roberta"},
    "camembert": {**ROBERTA, "model_type": "camembert"},
    "deberta-v3": {
        **DEBERTA,
        "position_buckets": 4,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "max_position_embeddings": 12,
    },
    "modernbert": {
        "model_type": "modernbert",
        **{k: v for k, v in toys.BERT_CONFIG.items() if not k.endswith("dropout_prob")},
        **dict.fromkeys(SPECIAL_IDS, 0),
        "local_attention": 4,
    },
    "xlnet": XLNET,
    "xlnet of limited distances": {**XLNET, "clamp_len": 3},
    "deberta-v2 with a convolution": {**DEBERTA, "conv_kernel_size": 3, "conv_act": "gelu"},
}
# ends of the names of weights that a trunk leaves out
LEFT_OUT = ("pooler.dense.weight", "pooler.dense.bias", "seg_embed", "r_s_bias", "mask_emb")
NO_CAUSAL_TEXT = "deberta-v2 with a convolution"
SAME_CODE = ("ernie", "xlm-roberta", "camembert")  # as "bert" and "roberta"
every_type = pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in SAME_CODE])
every_causal_type = pytest.mark.parametrize(
    "name", [name for name in ARCHITECTURES if name not in (NO_CAUSAL_TEXT, *SAME_CODE)]
)
some_fusions = pytest.mark.parametrize("fusion", ["single_stream", "dual_stream", "albef", "alpro"])


def video_model(name: str, fusion: str = "single_stream", vision: str = "clip") -> VideoClassifier:
    torch.manual_seed(0)
    model = build_model(toys.blueprint(fusion, vision) | {"trunk": ARCHITECTURES[name]}).eval()
    with torch.no_grad():  # initial weights are so small that tokens hardly differ
        for weight in model.trunk.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


def causal(batch):
    return replace(batch, text_mask=causal_mask(batch.text_mask))


def test_every_supported_type_is_tested():
    supported = {name for family in FAMILIES for name in family.model_types}
    assert {a["model_type"] for a in ARCHITECTURES.values()} == supported == set(MODEL_TYPES)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification])
def test_a_trunk_equals_the_model_of_transformers(name, auto, tmp_path, monkeypatch):
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    settings = {k: v for k, v in ARCHITECTURES[name].items() if k != "model_type"}
    torch.manual_seed(0)
    config = AutoConfig.for_model(ARCHITECTURES[name]["model_type"], **settings)
    whole = auto.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in whole.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    whole.save_pretrained(tmp_path / "toy")

    folder = find_trunk("toy")
    trunk = Trunk(read_architecture(folder)).eval()
    unused = load_trunk(trunk, folder)
    batch = toys.batch()
    ids, mask = batch.text, batch.text_mask
    with torch.no_grad():
        encoded = trunk(Tokens(trunk.embed(ids), mask)).x
        expected = whole.base_model(ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(encoded[mask], expected[mask], rtol=1e-4, atol=1e-5)
    if auto is AutoModel:
        assert [tensor for tensor in unused if not tensor.endswith(LEFT_OUT)] == []


@every_type
@some_fusions
def test_trap_02_padding_moves_no_logit(name, fusion):
    model, batch = video_model(name, fusion), toys.batch()
    torch.testing.assert_close(
        model.logits(toys.pad(batch, 5, 2)), model.logits(batch), rtol=1e-4, atol=1e-5
    )


@every_causal_type
def test_no_later_word_reaches_an_earlier_one(name):
    model, batch = video_model(name), causal(toys.batch((3, 0, 4, 1)))
    outputs = model(batch).text.x
    for j in (1, 4):
        text = batch.text.clone()
        text[:, j] = (text[:, j] + 7) % toys.WORDS
        changed = model(replace(batch, text=text)).text.x
        torch.testing.assert_close(changed[:, :j], outputs[:, :j])
        assert not torch.allclose(changed[:, j], outputs[:, j])


@every_causal_type
def test_a_full_mask_of_pairs_equals_a_mask_of_tokens(name):
    model, batch = video_model(name), toys.batch()
    tokens, real = model.text_tokens(batch), batch.text_mask
    pairs = Tokens(tokens.x, real[:, None, :].expand(-1, real.shape[1], -1))
    torch.testing.assert_close(model.trunk(pairs).x[real], model.trunk(tokens).x[real])


@every_type
def test_layers_run_one_after_the_other(name):
    model, batch = video_model(name), toys.batch()
    trunk, tokens, real = model.trunk, model.text_tokens(batch), batch.text_mask
    first = trunk(tokens, layers=slice(0, 1))
    whole = trunk(tokens).x[real]
    assert not torch.allclose(first.x[real], whole)
    torch.testing.assert_close(trunk(first, layers=slice(1, None)).x[real], whole)
    assert torch.equal(trunk(tokens, layers=slice(0, 0)).x, tokens.x)


@every_type
def test_every_weight_gets_a_gradient(name):
    model, batch = video_model(name).train(), toys.batch()
    torch.nn.functional.cross_entropy(model.logits(batch), batch.label).backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


@every_type
def test_all_families_have_the_same_names(name):
    model = video_model(name)
    assert model.trunk.embeddings.word_embeddings.num_embeddings == toys.WORDS
    assert list(repeated_layers(model.trunk)) == ["encoder.layer.0", "encoder.layer.1"]
    names = [n for n, _ in model.trunk.named_parameters()]
    numbers = dict(zip(names, layer_numbers(names), strict=True))
    assert numbers["embeddings.word_embeddings.weight"] == 0
    for weight, number in numbers.items():
        if weight.startswith("encoder.layer."):
            assert number == 1 + int(weight.split(".")[2])


@every_type
def test_no_family_waits_for_a_gpu(name):
    model, batch = video_model(name, vision="features"), toys.batch(vision="features")
    with fake_cuda():
        model, batch = model_on_fake_cuda(model), batch_on_fake_cuda(batch)
        for read in (batch, causal(batch))[: 1 if name == NO_CAUSAL_TEXT else 2]:
            assert model.logits(read).device.type == "cuda"


@every_causal_type
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trap_09_masks_stay_finite_in_half_precision(name, dtype):
    model, batch = video_model(name), causal(toys.batch())
    exact = model.logits(batch)
    with torch.autocast("cpu", dtype):
        logits = model.logits(batch)
    torch.testing.assert_close(logits, exact, rtol=0.2, atol=0.1, check_dtype=False)


def test_causal_text_is_refused_where_a_word_would_read_the_next_one():
    with pytest.raises(UsageFault, match="takes no causal text; remove objectives such as caption"):
        video_model(NO_CAUSAL_TEXT)(causal(toys.batch()))


@every_type
def test_new_words_begin_as_the_mean_of_their_tokens(name):
    trunk = Trunk(ARCHITECTURES[name]).eval()
    before = trunk.embeddings.word_embeddings.weight.detach().clone()
    last = toys.WORDS - 1
    initialize_words(trunk, {last: [5, 6], last + 1: [7], last + 3: [7, 8, 9]})
    words = trunk.embeddings.word_embeddings
    expected = [
        *before[:last],
        (before[5] + before[6]) / 2,
        before[7],
        torch.zeros_like(before[0]),
        (before[7] + before[8] + before[9]) / 3,
    ]
    torch.testing.assert_close(words.weight.detach(), torch.stack(expected))
    assert words.num_embeddings == len(expected)

    rebuilt = Trunk(trunk.architecture).eval()
    rebuilt.load_state_dict(trunk.state_dict(), strict=True)
    ids = torch.tensor([[2, last + 3, 3]])
    assert torch.equal(rebuilt.embed(ids), trunk.embed(ids))
    trunk.embed(ids).square().sum().backward()
    assert words.weight.grad[last + 3].any()

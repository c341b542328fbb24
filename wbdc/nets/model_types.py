"""The types of text models, as in the config.json of transformers, that a trunk is built of."""

from wbdc.core.errors import UsageFault

# their positions begin after the id of the padding; Chinese RoBERTa-wwm has the type "bert"
ROBERTA_TYPES = ("roberta", "xlm-roberta", "camembert")
BERT_TYPES = ("bert", "electra", "ernie", *ROBERTA_TYPES)
DEBERTA_TYPES = ("deberta-v2",)
MODERNBERT_TYPES = ("modernbert",)
XLNET_TYPES = ("xlnet",)
MODEL_TYPES = (*BERT_TYPES, *DEBERTA_TYPES, *MODERNBERT_TYPES, *XLNET_TYPES)


def check_model_type(model_type: str) -> None:
    """Raise UsageFault for a type of text model that no family supports."""
    if model_type not in MODEL_TYPES:
        raise UsageFault(
            f"trunk: text models of the type {model_type!r} are not supported; choose one of the "
            f"types {', '.join(MODEL_TYPES)}"
        )

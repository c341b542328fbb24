"""AST, the audio spectrogram transformer: a ViT on patches of a log-Mel spectrogram (Gong et al.,
2021).
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.files import read_json
from wbdc.core.mel_settings import SAMPLE_RATE, MelSettings
from wbdc.core.plug import check_between
from wbdc.core.weights import describe_weights, find_weights
from wbdc.nets.sound_tower import SoundTower
from wbdc.nets.transformers_weights import load_saved_model
from wbdc.nets.trunk import read_architecture

AST_FILE = "model.safetensors"
AST_CONFIG_FILE = "config.json"
AST_EXTRACTOR_FILE = "preprocessor_config.json"
AST_POSITIONS = "embeddings.position_embeddings"
AST_RANDOM_EMBEDDINGS = ("cls_token", "distillation_token", "position_embeddings")
AST_SPECIAL_TOKENS = 2  # of the class and of distillation, before the patches
AST_LOW_HZ = 20.0
KALDI_FLOOR = 1.192092955078125e-07  # that of Kaldi
AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974  # of the log energies; std counts twice


class AST(SoundTower):
    """One vector of each patch of the spectrogram, the mean of the tokens of the class and of
    distillation.

    model: a name on Hugging Face, for example "MIT/ast-finetuned-audioset-10-10-0.4593".
    architecture: instead of it, for random weights, the content of a config.json, without
    max_length. frames: spectra of a patch, 100 a second; none: as many as the model was trained
    with, or 1024. With another number, the embeddings of the positions are resized. steps: the most
    patches of each video; more are sampled by position. mean, std: of the log energies; none: those
    of the model, or of AudioSet.

    Raises UsageFault for frames that are too few, EnvironmentFault when the weights are not on this
    machine, IntegrityFault when they do not fit.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        architecture: dict | None = None,
        frames: int | None = None,
        steps: int = 3,
        mean: float | None = None,
        std: float | None = None,
    ):
        from transformers import ASTConfig, ASTModel

        if (model is None) == (architecture is None):
            raise UsageFault("modality 'ast' takes either model or architecture (random weights)")
        folder = None
        extractor = {}
        if model is not None:
            folder = find_weights(model, (AST_FILE,), (AST_CONFIG_FILE, AST_EXTRACTOR_FILE))
            architecture = read_architecture(folder)
            extractor = _read_extractor(folder)
        ignored = ("model_type", "architectures")
        sizes = ASTConfig(**{k: v for k, v in architecture.items() if k not in ignored})
        trained_frames = sizes.max_length
        sizes.max_length = trained_frames if frames is None else frames
        _check_sizes(sizes)
        mean = extractor.get("mean", AUDIOSET_MEAN) if mean is None else mean
        std = extractor.get("std", AUDIOSET_STD) if std is None else std
        check_between("modality 'ast'", 1e-6, math.inf, std=std)
        settings = ast_mel(sizes.max_length, sizes.num_mel_bins, mean, std)
        super().__init__(mel=settings, steps=steps)
        self.architecture = {k: v for k, v in architecture.items() if k != "max_length"}
        self.normalization = {"mean": mean, "std": std}
        self.dim = sizes.hidden_size
        self.tower = ASTModel(sizes)
        embeddings = self.tower.embeddings
        for name in AST_RANDOM_EMBEDDINGS:  # transformers begins with zeros, which attend equally
            nn.init.trunc_normal_(getattr(embeddings, name), std=sizes.initializer_range)
        if folder is not None:
            self._load(model, folder, trained_frames)

    def encode(self, patches: Tensor) -> Tensor:
        tokens = self.tower(patches).last_hidden_state
        return tokens[:, :AST_SPECIAL_TOKENS].mean(1)

    def blueprint(self) -> dict:
        return {
            "use": "ast",
            "architecture": self.architecture,
            "frames": self.mel.frames,
            "steps": self.steps,
            **self.normalization,
        }

    def _load(self, model: str, folder: Path, trained_frames: int) -> None:
        from transformers import ASTModel

        loaded, unused = load_saved_model(ASTModel, folder)
        tensors = {name: tensor.float() for name, tensor in loaded.state_dict().items()}
        rows, columns = _patch_grid(self.tower.config, trained_frames)
        _, new_columns = _patch_grid(self.tower.config, self.mel.frames)
        tensors[AST_POSITIONS] = resize_positions(
            tensors[AST_POSITIONS], rows, columns, new_columns
        )
        self.tower.load_state_dict(tensors, strict=True)
        file = folder / AST_FILE
        self.pretrained = describe_weights(model, file)
        self.loaded = (
            f"{model} from {file.name}: {len(tensors)} tensors loaded, {len(unused)} not used"
        )


def ast_mel(
    frames: int, mels: int, mean: float = AUDIOSET_MEAN, std: float = AUDIOSET_STD
) -> MelSettings:
    """Return the spectrogram of the published weights: the filter bank energies of Kaldi."""
    return MelSettings(
        frames=frames,
        mels=mels,
        low_hz=AST_LOW_HZ,
        high_hz=SAMPLE_RATE / 2,
        power=2,
        is_periodic=False,
        removes_mean=True,
        preemphasis=0.97,
        offset=0.0,
        floor=KALDI_FLOOR,
        padding=0.0,
        mean=mean,
        std=2 * std,
    )


def resize_positions(positions: Tensor, rows: int, old: int, new: int) -> Tensor:
    """Resize the embeddings of the patches' positions along the time, bilinearly as the authors do:
    (1, 2 + rows * old, D) -> (1, 2 + rows * new, D).
    """
    if old == new:
        return positions
    special, patches = positions[:, :AST_SPECIAL_TOKENS], positions[:, AST_SPECIAL_TOKENS:]
    grid = patches.unflatten(1, (rows, old)).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, (rows, new), mode="bilinear", align_corners=False)
    return torch.cat([special, resized.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def _patch_grid(sizes: object, frames: int) -> tuple[int, int]:
    """Return the rows (bands) and columns (times) of the patches of a spectrogram."""
    return (
        (sizes.num_mel_bins - sizes.patch_size) // sizes.frequency_stride + 1,
        (frames - sizes.patch_size) // sizes.time_stride + 1,
    )


def _check_sizes(sizes: object) -> None:
    """Raise UsageFault for a spectrogram that is smaller than one patch of the transformer."""
    for name, size in (
        ("frames", sizes.max_length),
        ("num_mel_bins", sizes.num_mel_bins),
    ):
        if size < sizes.patch_size:
            raise UsageFault(
                f"modality 'ast': {name} = {size}; it must be at least {sizes.patch_size}, the "
                "patch_size of the architecture"
            )


def _read_extractor(folder: Path) -> dict:
    """Read mean and std of the feature extractor of a model; {} when it has none."""
    file = folder / AST_EXTRACTOR_FILE
    settings = read_json(file) if file.is_file() else {}
    if not settings.get("do_normalize", True):
        return {"mean": 0.0, "std": 0.5}
    return {key: float(settings[key]) for key in ("mean", "std") if key in settings}

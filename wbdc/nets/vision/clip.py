"""The image tower of CLIP through open_clip: a ViT or a ResNet. Size, mean and std come with its
weights (Radford et al., 2021).
"""

from pathlib import Path

from torch import Tensor, nn

from wbdc.core.errors import IntegrityFault, UsageFault, suggest_name
from wbdc.core.image_settings import ImageSettings
from wbdc.core.weights import describe_weights, find_weights, load_weights, select_tensors
from wbdc.nets.clip_layout import (
    CONFIG_FILE,
    IMAGE_FILES,
    image_tower,
    is_chinese_clip,
    is_transformers_clip,
    read_clip_settings,
)
from wbdc.nets.packed_attention import use_packed_attention
from wbdc.nets.patch_grid import average_patches, check_patch_grid
from wbdc.nets.vision import Vision

OPENAI_MODELS = {  # names of OpenAI's weights: of transformers, and of open_clip
    "clip-vit-base-patch32": "ViT-B-32",
    "clip-vit-base-patch16": "ViT-B-16",
    "clip-vit-large-patch14": "ViT-L-14",
    "clip-vit-large-patch14-336": "ViT-L-14-336",
}
CLIP_WEIGHTS_FILES = ("open_clip_model.safetensors", "model.safetensors")
TRANSFORMERS_WEIGHTS = "transformers"  # the value of `weights` for a model that transformers saved


class Clip(Vision):
    """model, weights: open_clip's names, for example "ViT-B-32" and "openai"; or a CLIP or
    Chinese-CLIP on Hugging Face and "transformers". Instead of them, architecture and image define
    a tower with random weights.

    architecture: {embed_dim, quick_gelu, vision_cfg = {open_clip's CLIPVisionCfg}}. image: {size,
    mean, std, interpolation, short, squash, resize}. resize: "exact" for the pixels of Pillow,
    "fast" for nearly the same in a third of the time; none: as image defines it, else "exact". It
    is saved with the weights, and a submission resizes as the training did.

    patch_grid: g, for g x g vectors of each frame, the means of its projected patches; none: one
    vector of each frame. Raises UsageFault for an unknown model and for a grid of a tower without
    patches, EnvironmentFault when the weights are not on this machine.
    """

    def __init__(
        self,
        *,
        frames: int = 8,
        frozen: bool = False,
        model: str | None = None,
        weights: str | None = None,
        architecture: dict | None = None,
        image: dict | None = None,
        resize: str | None = None,
        patch_grid: int | None = None,
    ):
        # takes seconds; a kit is resolved without it. The public factory would build the text tower
        from open_clip.model import _build_vision_tower

        super().__init__(frames=frames, frozen=frozen)
        if (
            (model is None) == (architecture is None)
            or (model is None) != (weights is None)
            or (architecture is None) != (image is None)
        ):
            raise UsageFault(
                "vision 'clip' takes either model and weights, or architecture and image "
                "(random weights)"
            )
        if model is not None:
            architecture, image, hub_name, folder = _find_pretrained(model, weights)

        self.architecture = architecture
        self.image_settings = ImageSettings.from_table(image).with_resize(resize)
        self.dim = architecture["embed_dim"]
        self.tower = _build_vision_tower(
            self.dim, dict(architecture["vision_cfg"]), architecture.get("quick_gelu", False)
        )
        use_packed_attention(self.tower)
        self.patch_grid = patch_grid
        if patch_grid is not None:
            _check_has_patches(self.tower, patch_grid, model or "this architecture")
            self.tokens_per_frame = patch_grid**2
        if model is not None:
            self._load(folder, f"{model} {weights}", hub_name)
        self.freeze()

    def encode(self, pixels: Tensor) -> Tensor:
        if self.patch_grid is None:
            return self.tower(pixels)
        layers = self.tower.forward_intermediates(
            pixels,
            indices=1,  # of the last layer
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        patches = layers["image_intermediates"][-1] @ self.tower.proj
        return average_patches(patches.unflatten(1, self.tower.grid_size), self.patch_grid)

    def blueprint(self) -> dict:
        return {
            "use": "clip",
            "frames": self.frames,
            "frozen": self.frozen,
            "architecture": self.architecture,
            "image": self.image_settings.to_table(),
            "patch_grid": self.patch_grid,
        }

    def _load(self, folder: Path, model: str, hub_name: str) -> None:
        file = next(folder / f for f in CLIP_WEIGHTS_FILES if (folder / f).is_file())
        weights = load_weights(file)
        count = len(weights)
        if is_transformers_clip(weights):
            _check_identity(weights, file, model, hub_name)
            weights = image_tower(weights, file)
        selected, _ = select_tensors(weights, self.tower.state_dict(), file, "visual.")
        self.tower.load_state_dict(selected, strict=True)
        self.pretrained = describe_weights(hub_name, file)
        self.loaded = (
            f"{model} from {file.name}: {len(selected)} tensors loaded of {count}, "
            "without the text tower"
        )


def _check_has_patches(tower: nn.Module, grid: int, model: str) -> None:
    """Refuse a patch grid that a tower cannot give. Raises UsageFault."""
    from open_clip.transformer import VisionTransformer

    is_plain = isinstance(tower, VisionTransformer) and tower.attn_pool is None
    if not (is_plain and isinstance(tower.patch_dropout, nn.Identity)):
        raise UsageFault(
            f"vision.patch_grid = {grid}: {model} gives no grid of patches; it takes a vision "
            "transformer without attention pooling and patch dropout, for example ViT-B-32"
        )
    check_patch_grid(grid, *tower.grid_size, model)


def _check_identity(weights: dict[str, Tensor], file: Path, model: str, hub_name: str) -> None:
    """Refuse a Chinese-CLIP in the place of a model that open_clip lists: only its tensors' shapes
    are equal. Raises IntegrityFault.
    """
    if is_chinese_clip(weights) and not model.endswith(TRANSFORMERS_WEIGHTS):
        raise IntegrityFault(
            f"{file} is a Chinese-CLIP and not {model}; move it to a folder of its own name, for "
            "example OFA-Sys/chinese-clip-vit-base-patch16, and set vision.model to that name and "
            f"vision.weights to {TRANSFORMERS_WEIGHTS!r}, or put the file of "
            f"https://huggingface.co/{hub_name} there"
        )


def _find_pretrained(model: str, weights: str) -> tuple[dict, dict, str, Path]:
    """Find a model and its weights.

    Returns the architecture, the table of the image settings, the name of the weights on Hugging
    Face, and their folder. Raises UsageFault for unknown names, EnvironmentFault when the weights
    are not on this machine.
    """
    if weights == TRANSFORMERS_WEIGHTS:
        folder = find_weights(model, CLIP_WEIGHTS_FILES, (CONFIG_FILE, IMAGE_FILES[0]))
        return *read_clip_settings(folder), model, folder
    architecture, image, hub_name = find_listed(model, weights)
    return architecture, image, hub_name, find_weights(hub_name, CLIP_WEIGHTS_FILES)


def find_listed(model: str, weights: str) -> tuple[dict, dict, str]:
    """Find a model and its weights in open_clip's lists.

    Returns the architecture, the table of the image settings, and the name of the weights on
    Hugging Face. Raises UsageFault for unknown names.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    config = open_clip.get_model_config(model)
    if config is None and "/" in model:
        openai_model = OPENAI_MODELS.get(model.rsplit("/", 1)[-1])
        example = (
            f"model = {openai_model!r}, weights = 'openai'"
            if openai_model
            else "for example model = 'ViT-B-32', weights = 'openai'"
        )
        raise UsageFault(
            f"vision.model = {model!r} is a name on Hugging Face; set vision.weights to "
            f"{TRANSFORMERS_WEIGHTS!r}, or take open_clip's names: {example}"
        )
    if config is None:
        suggestion = suggest_name(model, open_clip.list_models())
        raise UsageFault(f"open_clip has no model {model!r}{suggestion}")

    listed = get_pretrained_cfg(model, weights)
    if not listed:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise UsageFault(
            f"open_clip has no weights {weights!r} for {model}{suggest_name(weights, tags)}"
        )
    resize_mode = listed.get("resize_mode", "shortest")
    if resize_mode not in ("shortest", "squash"):
        raise UsageFault(
            f"weights {weights!r} of {model} were trained on images that are resized by "
            f"{resize_mode!r}, and wbdc crops or squashes images; choose other weights"
        )

    architecture = {
        "embed_dim": config["embed_dim"],
        "vision_cfg": config["vision_cfg"],
        "quick_gelu": listed.get("quick_gelu", config.get("quick_gelu", False)),
    }
    image = {
        "size": config["vision_cfg"]["image_size"],
        "mean": listed["mean"],
        "std": listed["std"],
        "interpolation": listed["interpolation"],
        **({"squash": True} if resize_mode == "squash" else {}),
    }
    return architecture, image, (listed.get("hf_hub") or f"{model}-{weights}").strip("/")

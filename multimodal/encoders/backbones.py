"""Picture networks of torchvision, timm and open_clip by name, up to their last feature map.

Shape suffixes: B = pictures, P = positions, F = features of a position; 3HW = colour, height, width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core.errors import UserError
from multimodal.encoders.encoder import fingerprint

Weights = str
"""`pretrained` (by download), `random`, a tag of open_clip, or a file of weights."""

_IMAGENET_MEAN, _IMAGENET_SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A network with the normalisation that it was trained with.

    Args:
        network: pictures, normalised, to a feature map: (B, F, height, width), (B, height, width, F) or (B, P, F).
        name: of architecture and weights.
        image_side: pixels a side.
        mean: of each colour, in [0, 1].
        scale: standard deviation of each colour.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        image_side: int,
        mean: Sequence[float] = _IMAGENET_MEAN,
        scale: Sequence[float] = _IMAGENET_SCALE,
    ) -> None:
        super().__init__()
        self.network = network
        self.image_side = image_side
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1), persistent=False)
        self.channels_last = False
        network.eval()
        with torch.no_grad():
            probe = network(torch.zeros(1, 3, image_side, image_side))
            # Convolutions give channels first, Swin gives them last: the side that is no square of positions.
            self.channels_last = probe.dim() == 4 and probe.shape[1] == probe.shape[2] != probe.shape[3]
            self.num_positions, self.num_features = self._positions(probe).shape[1:]
        self.name = f"{name}-{fingerprint(network)}-{image_side}-v1"

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """features_BPF of uint8 pictures."""
        return self._positions(self.network((images_B3HW.float() / 255 - self.mean) / self.scale)).float()

    def _positions(self, features: Tensor) -> Tensor:
        if features.dim() == 3:
            return features
        return features.flatten(1, 2) if self.channels_last else features.flatten(2).transpose(1, 2)


class ModelUnavailable(UserError):
    """A network or its weights cannot be had; the message says why and what to do."""


def torchvision_backbone(architecture: str, weights: Weights = "pretrained", image_side: int = 224) -> Backbone:
    """A classification network of torchvision without its classifier (VGG, ResNet, ViT, Swin, ConvNeXt, …).

    Args:
        architecture: a name that `torchvision.models.list_models()` gives.
        weights: `pretrained`, `random`, or a file with its state dict.
        image_side: pixels a side; ViT wants 224.

    Raises:
        ValueError: no such network.
        ModelUnavailable: the weights cannot be loaded.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if architecture not in known:
        raise ValueError(f"torchvision has no network {architecture!r}; some it has: {', '.join(known[:12])}, …")
    network = torchvision_network(architecture, weights)
    return Backbone(_Trunk(network), f"torchvision-{architecture}", image_side)


def torchvision_network(architecture: str, weights: Weights) -> nn.Module:
    """A network of torchvision with its weights, without its classifier.

    Raises:
        ModelUnavailable: the weights cannot be loaded.
    """
    from torchvision.models import get_model

    try:
        network = get_model(architecture, weights="DEFAULT" if weights == "pretrained" else None)
    except (OSError, RuntimeError) as error:
        raise _unavailable(f"torchvision's {architecture}", error) from error
    load_weights(network, weights)
    for classifier in ("fc", "heads", "head", "classifier"):  # most of a VGG's weights, and never used
        if hasattr(network, classifier):
            setattr(network, classifier, nn.Identity())
    return network


def timm_backbone(architecture: str, weights: Weights = "pretrained", image_side: int | None = None) -> Backbone:
    """A network of timm without its classifier.

    Args:
        architecture: a name that `timm.list_models()` gives, with or without timm's tag of its weights.
        weights: `pretrained` (hub), `random`, or a file.
        image_side: pixels a side; None means what the network was trained on.

    Raises:
        ValueError: no such network.
        ModelUnavailable: timm, or the weights, cannot be loaded.
    """
    try:
        import timm
    except ImportError as error:
        raise ModelUnavailable("timm networks need timm: install it with `pip install 'trillium-lm[media]'`") from error
    if not timm.is_model(architecture):
        raise ValueError(f"timm has no network {architecture!r}: see timm.list_models()")
    sizes: dict[str, Any] = {} if image_side is None else {"img_size": image_side}
    try:
        try:
            network = timm.create_model(architecture, weights == "pretrained", num_classes=0, global_pool="", **sizes)
        except TypeError:  # convolutions take any size and no such argument
            network = timm.create_model(architecture, weights == "pretrained", num_classes=0, global_pool="")
    except (OSError, RuntimeError) as error:
        raise _unavailable(f"timm's {architecture}", error) from error
    load_weights(network, weights, ignored=("head.", "fc.", "classifier."))
    data = timm.data.resolve_model_data_config(network)
    return Backbone(
        _TimmTrunk(network), f"timm-{architecture}", image_side or data["input_size"][-1], data["mean"], data["std"]
    )


def open_clip_backbone(architecture: str, weights: Weights) -> Backbone:
    """The picture tower of an open_clip model: its last feature map, normalised as the tower does.

    Args:
        architecture: a name that `open_clip.list_models()` gives, such as `ViT-B-32`.
        weights: a pretrained tag (hub), `random`, or a file of the whole model's state dict.

    Raises:
        ValueError: no such model or tag.
        ModelUnavailable: the weights cannot be loaded.
    """
    import open_clip

    if architecture not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {architecture!r}: see open_clip.list_models()")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights != "random" and not Path(weights).is_file() and weights not in tags:
        raise ValueError(
            f"{weights!r} is neither a file nor a tag of {architecture}; tags: {', '.join(tags) or 'none'}"
        )
    try:
        model = open_clip.create_model(architecture, pretrained=None if weights == "random" else weights)
    except Exception as error:
        # As in `load_weights`: a damaged or foreign file raises what it likes.
        raise _unavailable(f"open_clip's {architecture}", error) from error
    visual = model.visual
    side = visual.image_size[0] if isinstance(visual.image_size, tuple | list) else visual.image_size
    preprocessing = open_clip.get_model_preprocess_cfg(model)
    return Backbone(_ClipTrunk(visual), f"open_clip-{architecture}", side, preprocessing["mean"], preprocessing["std"])


def load_weights(network: nn.Module, weights: Weights, ignored: Sequence[str] = ()) -> None:
    """Load a file of weights (safetensors, or a pickled state dict read without running code); names do nothing.

    Raises:
        ModelUnavailable: no such file, or not the weights of this network.
    """
    if weights in ("pretrained", "random"):
        return
    path = Path(weights)
    if not path.is_file():
        raise ModelUnavailable(f"{weights!r} must be `pretrained`, `random` or a file of weights")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        missing, unexpected = network.load_state_dict(state.get("state_dict", state), strict=False)
    except Exception as error:
        # A damaged or foreign file raises what it likes; all of it means that these weights cannot be used.
        raise ModelUnavailable(
            f"{path} holds no usable weights ({type(error).__name__}: {_reason(error)}): give another file"
        ) from error
    wrong = [name for name in (*missing, *unexpected) if not name.startswith(tuple(ignored))]
    if wrong:
        raise ModelUnavailable(
            f"{path} is not of this network, {len(wrong)} tensors are missing or too many ({', '.join(wrong[:3])}, …): "
            "give another file"
        )


class _Trunk(nn.Module):
    """A torchvision classifier up to its feature map."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, x: Tensor) -> Tensor:
        from torchvision.models import SwinTransformer, VisionTransformer

        network: Any = self.network
        if isinstance(network, VisionTransformer):
            tokens = network._process_input(x)
            tokens = torch.cat((network.class_token.expand(len(x), -1, -1), tokens), dim=1)
            return network.encoder(tokens)[:, 1:]
        if hasattr(network, "features"):
            x = network.features(x)
            return network.norm(x) if isinstance(network, SwinTransformer) else x
        if hasattr(network, "layer4"):
            x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
            return network.layer4(network.layer3(network.layer2(network.layer1(x))))
        raise ModelUnavailable(
            f"where {type(network).__name__} keeps its feature map is not known: take its namesake in timm"
        )


class _TimmTrunk(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, x: Tensor) -> Tensor:
        features = self.network.forward_features(x)
        return features[:, getattr(self.network, "num_prefix_tokens", 0) :] if features.dim() == 3 else features


class _ClipTrunk(nn.Module):
    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual: Any = visual

    def forward(self, x: Tensor) -> Tensor:
        found = self.visual.forward_intermediates(
            x, indices=1, intermediates_only=True, normalize_intermediates=True, output_fmt="NCHW"
        )
        return found["image_intermediates"][-1]


def _unavailable(what: str, error: Exception) -> ModelUnavailable:
    return ModelUnavailable(
        f"the weights of {what} cannot be had ({_reason(error)}): give a file of weights, or `random`"
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

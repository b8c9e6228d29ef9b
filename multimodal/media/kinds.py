"""Which kind of medium a file holds."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from multimodal.examples import Kind
from multimodal.media.audio import load_audio
from multimodal.media.errors import MediaError
from multimodal.media.image import FORMATS
from multimodal.media.transforms import FILE_SECONDS
from multimodal.media.video import load_video


def kind_of(path: Path, kinds: Sequence[Kind]) -> Kind:
    """Of some kinds the one that a file is; its content decides, not its name.

    Args:
        path: a file.
        kinds: what is asked for. Of one kind only, that kind: what is wrong with the file is said when it is read.

    Raises:
        MediaError: the file is missing, or none of the kinds.
    """
    if len(kinds) == 1:
        return kinds[0]
    try:
        with Image.open(path, formats=FORMATS) as image:
            moves = getattr(image, "n_frames", 1) > 1
        wanted: list[Kind] = ["video", "image"] if moves else ["image", "video"]
        for kind in wanted:
            if kind in kinds:
                return kind
    except FileNotFoundError:
        raise MediaError(path, "No such file or directory") from None
    except Exception:
        # Not a picture; Pillow raises what it likes on other files' bytes.
        pass
    reasons = []
    # Most clips have a sound, too; a sound's cover picture does not make it a clip.
    for kind in ("video", "audio"):
        if kind in kinds:
            try:
                _read(path, kind)
                return kind
            except MediaError as error:
                reasons.append(f"as {kind}: {error.reason}")
    raise MediaError(path, f"none of {', '.join(kinds)} ({'; '.join(reasons) or 'it is a picture'})")


def _read(path: Path, kind: Kind) -> None:
    if kind == "audio":
        load_audio(path, max_seconds=FILE_SECONDS)
    else:
        load_video(path, num_frames=1)

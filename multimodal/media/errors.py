"""What can be wrong with media: one file, too many of them, or a decoder that is not installed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.errors import UserError
from multimodal.examples import Kind


class MediaError(UserError):
    """One file that cannot be used, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["MediaError"], tuple[Path, str]]:
        # Loader processes send their exceptions by pickle, which by default would call us with the message alone.
        return type(self), (self.path, self.reason)


class TooManyBadFiles(UserError):
    """More files are damaged than the run accepts."""

    exit_code = 1

    def __init__(self, bad: Sequence[MediaError], total: int, max_bad_fraction: float, kind: Kind = "image") -> None:
        listed = "".join(f"\n  {error}" for error in bad[:10])
        super().__init__(
            f"{len(bad)} of {total} {kind} files cannot be used, more than max_bad_fraction={max_bad_fraction:g} "
            f"allows; repair or remove them, or raise the limit. The first ones:{listed}"
        )
        self.bad = list(bad)


class MissingDecoder(UserError):
    """A package that decodes sound or video is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the package {package}, which decodes sound and video, is not installed: "
            f"install it with `pip install 'trillium-lm[media]'`"
        )


def require_file(path: Path, max_bytes: int) -> None:
    """Refuse, before anything is opened, what is no file, empty, or larger than `max_bytes`.

    Raises:
        MediaError: it is.
    """
    try:
        size_bytes = path.stat().st_size
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        raise MediaError(path, getattr(error, "strerror", None) or "cannot be opened") from error
    if not is_file:
        raise MediaError(path, "not a file")
    if size_bytes == 0:
        raise MediaError(path, "empty file")
    if size_bytes > max_bytes:
        raise MediaError(path, f"{size_bytes} bytes, more than {max_bytes}")


@contextmanager
def reported_as_damage(path: Path) -> Iterator[None]:
    """Turns whatever a decoder raises into a `MediaError`.

    Decoders raise what they like on hostile bytes (OSError, SyntaxError, struct.error, ValueError, ...): around them,
    and only there, all of it means "this file is damaged". A `UserError` passes.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise MediaError(path, f"cannot be decoded ({type(error).__name__}: {error})") from error


def read_head(path: Path, max_bytes: int) -> bytes:
    """The first 64 bytes of a file, which tell its format.

    Raises:
        MediaError: it is missing, no file, empty or larger than `max_bytes`.
    """
    require_file(path, max_bytes)
    with reported_as_damage(path), path.open("rb") as stream:
        return stream.read(64)

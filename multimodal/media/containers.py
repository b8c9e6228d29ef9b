"""Sound and video containers by PyAV (FFmpeg): which are read, and how damage is noticed.

The file's first bytes choose one demuxer and nothing else is tried: FFmpeg's own guess would also try playlists, which
open further files and addresses. The decoders that may run are listed too. FFmpeg hears nothing but a Python stream, so
no name of a file can be taken for an address, and the stream is closed whatever happens.

FFmpeg conceals damage. Noticed are: packets that a decoder refuses, and a stream that ends before its header says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multimodal.media.errors import MediaError, MissingDecoder, read_head, reported_as_damage

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream

MAX_FILE_BYTES = 2**30
"""Sounds and clips above 1 GiB are refused before they are opened."""
MAX_DAMAGE = 0.05
"""Share of a stream that may be missing or refused by the decoder before the file counts as damaged."""
SLACK_S = 0.1
"""Seconds by which a header may be wrong in a whole file: encoders pad, and round to their frames."""
DECODERS = (
    *("h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "libdav1d", "av1", "mpeg4", "mpeg1video", "mpeg2video"),
    *("msmpeg4v2", "msmpeg4", "h263", "flv", "theora", "mjpeg", "prores", "dnxhd", "ffv1", "qtrle", "png", "rawvideo"),
    *("aac", "alac", "opus", "libopus", "vorbis", "flac", "mp3", "mp3float", "ac3", "eac3", "pcm_s16le", "pcm_s16be"),
    *("pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_u8"),
)
"""The FFmpeg decoders that may run."""
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def demuxer(head: bytes) -> str | None:
    """The FFmpeg demuxer for a file that starts with these (at least 36) bytes; None: not a container we read."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"OggS"):
        return "ogg"
    if head.startswith(b"fLaC"):
        return "flac"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    return None


@contextmanager
def open_container(path: Path, *, max_pixels: int) -> Iterator[InputContainer]:
    """Open a file with the one demuxer that its first bytes ask for; closed on leaving, in every case.

    Args:
        path: the file.
        max_pixels: decoders refuse larger frames, whatever the container's header said.

    Raises:
        MediaError: not a file that we read, or anything that FFmpeg or the code within raises.
        MissingDecoder: PyAV is not installed.
    """
    name = demuxer(read_head(path, MAX_FILE_BYTES))
    if name is None:
        raise MediaError(path, "neither a sound nor a clip in a format that is read here")
    try:
        import av
    except ImportError as error:
        raise MissingDecoder("av") from error
    options = {"codec_whitelist": ",".join(DECODERS), "max_pixels": str(max_pixels), "threads": "1"}
    with (
        reported_as_damage(path),
        path.open("rb") as stream,
        av.open(stream, "r", format=name, options=options, metadata_errors="replace") as container,
    ):
        yield container


def announced_s(container: InputContainer, stream: Stream) -> float | None:
    """Seconds that the header gives a stream; None where it gives none for this one."""
    if container.format.name in ("aac", "flac"):
        # There is no such header (or `load_audio` found it empty), and FFmpeg guesses from the size of the file.
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if tag := stream.metadata.get("DURATION"):
        # Matroska's way, such as 00:00:02.000000000.
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1e6
    return None


def packet_end_s(packet: Packet, stream: Stream) -> float:
    """When the content of a packet ends, in seconds from the start of its stream; 0 if the packet does not say."""
    start = packet.pts if packet.pts is not None else packet.dts
    if start is None or stream.time_base is None:
        return 0.0
    end = start - (stream.start_time or 0) + (packet.duration or 0)
    return float(end * stream.time_base)


def packets(container: InputContainer, stream: Stream) -> Iterator[Packet]:
    """The packets of a stream up to its end or to the first place that cannot be read."""
    from av.error import FFmpegError

    remaining = container.demux(stream)
    while True:
        try:
            packet = next(remaining)
        except (StopIteration, FFmpegError):
            return
        if packet.size:
            yield packet


class Decoding:
    """Decodes a stream packet by packet, goes on after a packet that cannot be decoded, and keeps count.

    Args:
        path: for messages.
        container: opened by `open_container`.
        stream: one of its streams.
        max_pixels: as for `open_container`.
    """

    def __init__(self, path: Path, container: InputContainer, stream: Stream, *, max_pixels: int) -> None:
        from av import CodecContext

        self.path = path
        self.container = container
        self.stream = stream
        self.num_packets = 0
        self.num_refused = 0
        self.end_s = 0.0
        """Where the last packet ended, in seconds."""
        context = stream.codec_context
        if context is None or context.codec.name not in DECODERS:
            raise MediaError(path, f"its codec {'' if context is None else context.codec.name} is not among those read")
        if stream.metadata.get("alpha_mode") == "1" and context.codec.canonical_name in _ALPHA_DECODERS:
            # FFmpeg's own VP8 and VP9 decoders leave the transparency out.
            context = CodecContext.create(_ALPHA_DECODERS[context.codec.canonical_name], "r")
        # Met in the same order each time, damage has the same result; and loader processes are many already.
        context.thread_count = 1
        context.options = {"max_pixels": str(max_pixels)}
        self.context: Any = context

    def __iter__(self) -> Iterator[Any]:
        for packet in packets(self.container, self.stream):
            self.num_packets += 1
            self.end_s = max(self.end_s, packet_end_s(packet, self.stream))
            yield from self._decoded(packet)
        yield from self._decoded(None)

    def require_whole(self) -> None:
        """Refuse a stream of which the decoder refused too many packets.

        Raises:
            MediaError: it did.
        """
        if self.num_refused > MAX_DAMAGE * self.num_packets:
            raise MediaError(self.path, f"damaged: {self.num_refused} of {self.num_packets} packets cannot be decoded")

    def _decoded(self, packet: Packet | None) -> list[Any]:
        from av.error import FFmpegError

        try:
            return self.context.decode(packet)
        except FFmpegError:
            self.num_refused += packet is not None
            return []


def require_length(path: Path, found_s: float, header_s: float | None) -> None:
    """Refuse a stream that ends well before its header says.

    Raises:
        MediaError: it does.
    """
    if header_s is not None and found_s < (1 - MAX_DAMAGE) * header_s - SLACK_S:
        raise MediaError(path, f"cut off: {found_s:.2f} s are there, the header says {header_s:.2f} s")

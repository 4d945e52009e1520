"""What one file may ask for. Every limit is checked against the header before anything of that size is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from dali_pipes.errors import LimitError


@dataclass(frozen=True)
class Limits:
    """Ceilings for one file; a file that asks for more raises LimitError.

    frame_bytes: what decoding one frame takes at its peak, by the header and by what each decoder was measured to
    need. frames: of a DICOM file. pages: of a TIFF or an animation, where a page is found by passing over those before
    it. elements: of the elements and items in a DICOM header, to which one for every 64 bytes of the file is added.

    All but the last two hold in every process. `seconds` and `memory_bytes` are enforced by the operating system on the
    child processes of a DecoderPool; `memory_bytes` comes on top of what the child needs when idle and of the mapped
    file.
    """

    file_bytes: int = 4 << 30
    pixels: int = 1 << 28
    frame_bytes: int = 2 << 30
    frames: int = 100_000
    inflate_bytes: int = 1 << 30
    elements: int = 250_000
    pages: int = 4096
    seconds: float = 60.0
    memory_bytes: int = 2 << 30

    def check_file(self, size: int) -> None:
        """Raise LimitError where the file itself is larger than allowed."""
        if size > self.file_bytes:
            raise LimitError(f"the file has {size} bytes; at most {self.file_bytes} are allowed (Limits.file_bytes)")

    def check_frame(self, rows: int, columns: int, bytes_per_pixel: float) -> None:
        """Raise LimitError where a frame of rows x columns is too large, or decoding it takes too much memory."""
        if rows * columns > self.pixels:
            raise LimitError(
                f"an image of {rows} x {columns} is {rows * columns} pixels; "
                f"at most {self.pixels} are allowed (Limits.pixels)"
            )
        if rows * columns * bytes_per_pixel > self.frame_bytes:
            raise LimitError(
                f"decoding a frame of {rows} x {columns} takes {int(rows * columns * bytes_per_pixel)} bytes; "
                f"at most {self.frame_bytes} are allowed (Limits.frame_bytes)"
            )

    def check_frames(self, frames: int) -> None:
        """Raise LimitError where the file claims more frames than allowed."""
        if frames > self.frames:
            raise LimitError(f"the file claims {frames} frames; at most {self.frames} are allowed (Limits.frames)")

    def check_page(self, page: int, pixels: int, *, animated: bool) -> None:
        """Raise LimitError where finding a page, before which all others are passed over, would take too long.

        animated: those before it are decoded too.
        """
        if page >= self.pages:
            raise LimitError(f"page {page} was asked for; the first {self.pages} are read (Limits.pages)")
        if animated and page * pixels > 16 * self.pixels:
            raise LimitError(
                f"frame {page} of an animation of {pixels} pixels a frame: all before it must be decoded, and at most "
                f"{16 * self.pixels} pixels are (16 times Limits.pixels)"
            )

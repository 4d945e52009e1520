"""What one file may ask for. Every limit is checked against the header before anything of that size is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from dali_pipes.errors import LimitError


@dataclass(frozen=True)
class Limits:
    """Ceilings for one file; a file that asks for more raises LimitError.

    elements: of the elements and items in a DICOM header, to which one for every 64 bytes of the file is added.

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
    seconds: float = 60.0
    memory_bytes: int = 2 << 30

    def check_file(self, size: int) -> None:
        """Raise LimitError where the file itself is larger than allowed."""
        if size > self.file_bytes:
            raise LimitError(f"the file has {size} bytes; at most {self.file_bytes} are allowed (Limits.file_bytes)")

    def check_frame(self, rows: int, columns: int, bytes_per_pixel: float) -> None:
        """Raise LimitError where one decoded frame of rows x columns would be larger than allowed."""
        if rows * columns > self.pixels:
            raise LimitError(
                f"an image of {rows} x {columns} is {rows * columns} pixels; "
                f"at most {self.pixels} are allowed (Limits.pixels)"
            )
        if rows * columns * bytes_per_pixel > self.frame_bytes:
            raise LimitError(
                f"a frame of {rows} x {columns} needs {int(rows * columns * bytes_per_pixel)} bytes decoded; "
                f"at most {self.frame_bytes} are allowed (Limits.frame_bytes)"
            )

    def check_frames(self, frames: int) -> None:
        """Raise LimitError where the file claims more frames than allowed."""
        if frames > self.frames:
            raise LimitError(f"the file claims {frames} frames; at most {self.frames} are allowed (Limits.frames)")
